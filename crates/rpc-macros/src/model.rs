//! What a trait says.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, FnArg, ItemTrait, LitInt, LitStr, Pat, Result, ReturnType, Token, TraitItem, Type,
};

/// `name = "...", version = N`.
pub struct Head {
    pub name: Option<LitStr>,
    pub version: LitInt,
}

impl Parse for Head {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let (mut name, mut version) = (None, None);
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            match key.to_string().as_str() {
                "name" => name = Some(input.parse()?),
                "version" => version = Some(input.parse()?),
                _ => return Err(Error::new(key.span(), "expected `name` or `version`")),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        let version = version.ok_or_else(|| input.error("an interface has a version: `version = 1`"))?;
        Ok(Self { name, version })
    }
}

/// A parameter.
pub struct Parameter {
    pub name: Ident,
    /// Its own type, without the reference if it is in and out.
    pub kind: Type,
    pub inout: bool,
}

/// An operation.
pub struct Operation {
    pub documentation: Vec<Attribute>,
    pub name: Ident,
    pub parameters: Vec<Parameter>,
    /// `()` if nothing is given.
    pub result: Type,
    /// A variant of `Semantics`.
    pub semantics: Ident,
    pub timeout_ms: Option<u64>,
    pub replies: bool,
    pub later: bool,
}

/// An interface.
pub struct Model {
    pub visibility: syn::Visibility,
    pub documentation: Vec<Attribute>,
    pub trait_name: Ident,
    pub name: String,
    pub version: u32,
    pub operations: Vec<Operation>,
}

impl Model {
    pub fn read(head: Head, item: ItemTrait) -> Result<Self> {
        if !item.generics.params.is_empty() {
            return Err(Error::new(item.generics.span(), "an interface has no parameters"));
        }
        let operations = item
            .items
            .iter()
            .map(|item| match item {
                TraitItem::Fn(function) => Operation::read(function),
                other => Err(Error::new(other.span(), "an interface has operations only")),
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            name: head
                .name
                .map_or_else(|| item.ident.to_string().to_lowercase(), |name| name.value()),
            version: head.version.base10_parse()?,
            visibility: item.vis,
            documentation: documentation(&item.attrs),
            trait_name: item.ident,
            operations,
        })
    }
}

fn documentation(attributes: &[Attribute]) -> Vec<Attribute> {
    let is_documentation = |attribute: &&Attribute| attribute.path().is_ident("doc");
    attributes.iter().filter(is_documentation).cloned().collect()
}

impl Operation {
    fn read(function: &syn::TraitItemFn) -> Result<Self> {
        let signature = &function.sig;
        let (mut semantics, mut timeout_ms, mut later) = (None, None, false);
        for attribute in &function.attrs {
            let path = attribute.path();
            let variant = if path.is_ident("maybe") {
                "Maybe"
            } else if path.is_ident("at_least_once") {
                "AtLeastOnce"
            } else if path.is_ident("at_most_once") {
                "AtMostOnce"
            } else if path.is_ident("later") {
                later = true;
                continue;
            } else if path.is_ident("doc") {
                continue;
            } else {
                return Err(Error::new(path.span(), "not an attribute of an operation"));
            };
            if semantics.replace(Ident::new(variant, path.span())).is_some() {
                return Err(Error::new(path.span(), "an operation has one semantics"));
            }
            if !matches!(attribute.meta, syn::Meta::Path(_)) {
                attribute.parse_nested_meta(|meta| {
                    if !meta.path.is_ident("timeout") {
                        return Err(meta.error("expected `timeout`"));
                    }
                    timeout_ms = Some(milliseconds(&meta.value()?.parse()?)?);
                    Ok(())
                })?;
            }
        }
        let semantics = semantics.ok_or_else(|| {
            Error::new(
                signature.ident.span(),
                "say how often it may be executed: `#[maybe]`, `#[at_least_once]` or `#[at_most_once]`",
            )
        })?;
        let mut inputs = signature.inputs.iter();
        match inputs.next() {
            Some(FnArg::Receiver(receiver))
                if receiver.reference.is_some() && receiver.mutability.is_none() => {}
            _ => {
                return Err(Error::new(
                    signature.span(),
                    "an operation has the receiver `&self`",
                ));
            }
        }
        let parameters = inputs.map(Parameter::read).collect::<Result<Vec<_>>>()?;
        let (result, gives) = match &signature.output {
            ReturnType::Default => (syn::parse_quote!(()), false),
            ReturnType::Type(_, kind) => ((**kind).clone(), true),
        };
        let replies = semantics != "Maybe" || gives || parameters.iter().any(|parameter| parameter.inout);
        if !replies && (later || timeout_ms.is_some()) {
            return Err(Error::new(
                signature.span(),
                "it has no reply, so neither a time-out nor an answer that comes later",
            ));
        }
        Ok(Self {
            documentation: documentation(&function.attrs),
            name: signature.ident.clone(),
            parameters,
            result,
            semantics,
            timeout_ms,
            replies,
            later,
        })
    }

    /// The type of what comes back: the result and the parameters that are copied back.
    pub fn reply_type(&self) -> TokenStream {
        let result = &self.result;
        let inouts: Vec<_> = self.inouts().map(|parameter| &parameter.kind).collect();
        if inouts.is_empty() {
            quote!(#result)
        } else {
            quote!((#result, #(#inouts,)*))
        }
    }

    pub fn inouts(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|parameter| parameter.inout)
    }
}

impl Parameter {
    fn read(argument: &FnArg) -> Result<Self> {
        let FnArg::Typed(typed) = argument else {
            return Err(Error::new(argument.span(), "a parameter has a name and a type"));
        };
        let Pat::Ident(name) = &*typed.pat else {
            return Err(Error::new(typed.pat.span(), "a parameter has a plain name"));
        };
        let inout = typed
            .attrs
            .iter()
            .any(|attribute| attribute.path().is_ident("inout"));
        let kind = match (&*typed.ty, inout) {
            (Type::Reference(reference), true) if reference.mutability.is_some() => (*reference.elem).clone(),
            (other, true) => return Err(Error::new(other.span(), "an `#[inout]` parameter is a `&mut`")),
            (Type::Reference(reference), false) => {
                return Err(Error::new(
                    reference.span(),
                    "parameters go by value, or as `#[inout]`",
                ));
            }
            (other, false) => other.clone(),
        };
        Ok(Self {
            name: name.ident.clone(),
            kind,
            inout,
        })
    }
}

/// A time with its unit.
fn milliseconds(text: &LitStr) -> Result<u64> {
    let value = text.value();
    let digits = value
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let factor = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "min" => Some(60_000),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| Error::new(text.span(), "a time is a number and `ms`, `s` or `min`"))
}
