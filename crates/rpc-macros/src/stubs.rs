//! The stubs.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};

use crate::model::{Model, Operation};

pub fn write(model: &Model) -> TokenStream {
    let Model {
        visibility,
        documentation,
        trait_name,
        name,
        version,
        operations,
    } = model;
    let lower = snake(&trait_name.to_string());
    let interface = format_ident!("{}_INTERFACE", lower.to_uppercase());
    let client = format_ident!("{trait_name}Client");
    let dispatch = format_ident!("dispatch_{lower}");
    let rows = operations.iter().map(row);
    let methods = operations.iter().map(server_method);
    let calls = operations
        .iter()
        .enumerate()
        .map(|(number, operation)| client_methods(number as u16, operation));
    let arms = operations
        .iter()
        .enumerate()
        .map(|(number, operation)| arm(number as u16, operation));
    let about_interface = format!("The interface `{name}`, version {version}.");
    let about_client = format!("Uses a peer's [`{trait_name}`].");
    let about_dispatch = format!("Has a [`{trait_name}`] execute what its peer asks for.");
    quote! {
        #[doc = #about_interface]
        #visibility const #interface: ::afield_rpc::Interface = ::afield_rpc::Interface {
            name: #name,
            version: #version,
            operations: &[#(#rows),*],
        };

        #(#documentation)*
        #visibility trait #trait_name {
            /// Why the connection has to be ended.
            type Fault;
            #(#methods)*
        }

        #[doc = #about_client]
        #[derive(Debug, Clone)]
        #visibility struct #client<C> {
            caller: C,
        }

        impl<C: ::afield_rpc::Caller> #client<C> {
            /// A client that calls through this.
            pub fn new(caller: C) -> Self {
                Self { caller }
            }

            /// Ends calls whose time is over; how long until the next one's is.
            pub fn tick(&self) -> ::core::option::Option<::core::time::Duration> {
                ::afield_rpc::Caller::tick(&self.caller)
            }

            #(#calls)*
        }

        #[doc = #about_dispatch]
        #visibility fn #dispatch<S: #trait_name + ?Sized>(
            server: &S,
            mut execution: ::afield_rpc::Execution,
        ) -> ::core::result::Result<(), ::afield_rpc::DispatchError<S::Fault>> {
            match execution.operation {
                #(#arms)*
                operation => ::core::result::Result::Err(::afield_rpc::DispatchError::Arguments { operation }),
            }
        }
    }
}

fn row(operation: &Operation) -> TokenStream {
    let name = operation.name.to_string();
    let (semantics, replies) = (&operation.semantics, operation.replies);
    let timeout = match operation.timeout_ms {
        Some(limit) => quote!(::core::option::Option::Some(::core::time::Duration::from_millis(#limit))),
        None => quote!(::core::option::Option::None),
    };
    quote! {
        ::afield_rpc::Operation {
            name: #name,
            semantics: ::afield_rpc::Semantics::#semantics,
            replies: #replies,
            timeout: #timeout,
        }
    }
}

fn server_method(operation: &Operation) -> TokenStream {
    let Operation {
        documentation,
        name,
        parameters,
        result,
        later,
        ..
    } = operation;
    let parameters = parameters.iter().map(|parameter| {
        let (name, kind) = (&parameter.name, &parameter.kind);
        // One whose answer comes later gives it back itself.
        match parameter.inout && !later {
            true => quote!(#name: &mut #kind),
            false => quote!(#name: #kind),
        }
    });
    if *later {
        let reply = operation.reply_type();
        quote! {
            #(#documentation)*
            fn #name(
                &self,
                #(#parameters,)*
                answer: ::afield_rpc::Answer<#reply>,
            ) -> ::core::result::Result<(), Self::Fault>;
        }
    } else {
        quote! {
            #(#documentation)*
            fn #name(&self, #(#parameters),*) -> ::core::result::Result<#result, Self::Fault>;
        }
    }
}

fn client_methods(number: u16, operation: &Operation) -> TokenStream {
    let Operation {
        documentation,
        name,
        parameters,
        result,
        replies,
        ..
    } = operation;
    let names: Vec<_> = parameters.iter().map(|parameter| &parameter.name).collect();
    let by_value: Vec<_> = parameters
        .iter()
        .map(|parameter| {
            let (name, kind) = (&parameter.name, &parameter.kind);
            quote!(#name: #kind)
        })
        .collect();
    let encode = quote!(::afield_rpc::stub::encode(&(#(&#names,)*))?);
    if !replies {
        return quote! {
            #(#documentation)*
            pub fn #name(&self, #(#by_value),*) -> ::core::result::Result<(), ::afield_rpc::CallError> {
                ::afield_rpc::Caller::notify(&self.caller, #number, &#encode)
            }
        };
    }
    let reply = operation.reply_type();
    let then = format_ident!("{name}_then");
    let begin = format_ident!("begin_{name}");
    let plain: Vec<_> = parameters
        .iter()
        .map(|parameter| {
            let (name, kind) = (&parameter.name, &parameter.kind);
            match parameter.inout {
                true => quote!(#name: &mut #kind),
                false => quote!(#name: #kind),
            }
        })
        .collect();
    let inouts: Vec<_> = operation.inouts().map(|parameter| &parameter.name).collect();
    let news: Vec<_> = inouts.iter().map(|name| format_ident!("new_{name}")).collect();
    let finish = if inouts.is_empty() {
        quote!(pending.wait())
    } else {
        quote! {{
            let (result, #(#news,)*) = pending.wait()?;
            #(*#inouts = #news;)*
            ::core::result::Result::Ok(result)
        }}
    };
    let about_then = format!("As `{name}`; the result is handed on by the thread that reads the connection.");
    let about_begin = format!("As `{name}`, without waiting.");
    quote! {
        #(#documentation)*
        pub fn #name(&self, #(#plain),*) -> ::core::result::Result<#result, ::afield_rpc::CallError> {
            let pending = ::afield_rpc::Pending::<#reply, C>::begin(&self.caller, #number, #encode)?;
            #finish
        }

        #[doc = #about_then]
        pub fn #then(
            &self,
            #(#by_value,)*
            then: impl FnOnce(::core::result::Result<#reply, ::afield_rpc::CallError>) + Send + 'static,
        ) -> ::core::result::Result<(), ::afield_rpc::CallError> {
            let then = ::std::boxed::Box::new(
                move |result: ::core::result::Result<::std::vec::Vec<u8>, ::afield_rpc::CallError>| {
                    then(result.and_then(|bytes| ::afield_rpc::stub::decode(&bytes)))
                },
            );
            ::afield_rpc::Caller::begin(&self.caller, #number, #encode, then).map(drop)
        }

        #[doc = #about_begin]
        pub fn #begin(
            &self,
            #(#by_value),*
        ) -> ::core::result::Result<::afield_rpc::Pending<#reply, C>, ::afield_rpc::CallError> {
            ::afield_rpc::Pending::begin(&self.caller, #number, #encode)
        }
    }
}

fn arm(number: u16, operation: &Operation) -> TokenStream {
    let Operation {
        name,
        parameters,
        replies,
        later,
        ..
    } = operation;
    let names: Vec<_> = parameters.iter().map(|parameter| &parameter.name).collect();
    let kinds: Vec<_> = parameters.iter().map(|parameter| &parameter.kind).collect();
    let decode = quote!(let (#(mut #names,)*): (#(#kinds,)*) = execution.arguments()?;);
    let by_value = quote!(let (#(#names,)*): (#(#kinds,)*) = execution.arguments()?;);
    if !replies {
        return quote! {
            #number => {
                #by_value
                server.#name(#(#names),*).map_err(::afield_rpc::DispatchError::Fault)
            }
        };
    }
    let reply = operation.reply_type();
    if *later {
        return quote! {
            #number => {
                #by_value
                let answer = execution.answer::<#reply, S::Fault>()?;
                server.#name(#(#names,)* answer).map_err(::afield_rpc::DispatchError::Fault)
            }
        };
    }
    let arguments = parameters.iter().map(|parameter| {
        let name = &parameter.name;
        match parameter.inout {
            true => quote!(&mut #name),
            false => quote!(#name),
        }
    });
    let inouts: Vec<_> = operation.inouts().map(|parameter| &parameter.name).collect();
    let (decode, value) = if inouts.is_empty() {
        (by_value, quote!(result))
    } else {
        (
            quote!(#[allow(unused_mut)] #decode),
            quote!((result, #(#inouts,)*)),
        )
    };
    quote! {
        #number => {
            #decode
            let answer = execution.answer::<#reply, S::Fault>()?;
            let result = server.#name(#(#arguments),*).map_err(::afield_rpc::DispatchError::Fault)?;
            ::core::result::Result::Ok(answer.send(&#value)?)
        }
    }
}

/// `RecordLocks` as `record_locks`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}
