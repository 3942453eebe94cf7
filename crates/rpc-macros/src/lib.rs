//! `#[interface]`: stubs from a trait.

mod model;
mod stubs;

use proc_macro::TokenStream;

/// Makes an interface of a trait. See `afield_rpc`.
///
/// ```ignore
/// #[interface(name = "afield.node", version = 1)]
/// pub trait Node {
///     /// Answered when the program has been executed.
///     #[at_most_once]
///     #[later]
///     fn start(&self, spawn: Spawn) -> Result<(), SpawnError>;
///     #[at_least_once(timeout = "2s")]
///     fn statistics(&self) -> Statistics;
///     #[maybe]
///     fn kill(&self, pid: u32);
///     #[at_most_once]
///     fn fill(&self, #[inout] buffer: &mut Vec<u8>) -> u32;
/// }
/// ```
///
/// Every operation says its semantics: `maybe`, `at_least_once` or `at_most_once`, each perhaps with a `timeout` in `ms`, `s` or
/// `min`. A `maybe` operation without a result has no reply: it is a notice in the connection's order. Arguments go by value;
/// `#[inout]` ones are copied there and, if the call succeeds, back.
///
/// Of a trait `Node` this makes
/// * the trait `Node` for servers, with a type `Fault`: why the connection has to be ended. All its methods give
///   `Result<_, Self::Fault>`. Those that are marked `#[later]` get an `Answer` as their last argument and may give the result whenever they have it;
/// * `NodeClient<C: Caller>`: for each operation with a reply `name` (waits), `name_then` (has the result handed on) and `begin_name`
///   (gives a `Pending`), for the others `name`, which sends;
/// * `NODE_INTERFACE`, and `dispatch_node`, which has a server execute what has come.
#[proc_macro_attribute]
pub fn interface(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let parsed = syn::parse::<model::Head>(attribute)
        .and_then(|head| syn::parse::<syn::ItemTrait>(item).and_then(|item| model::Model::read(head, item)));
    match parsed {
        Ok(model) => stubs::write(&model).into(),
        Err(error) => error.to_compile_error().into(),
    }
}
