//! Matrix products: packed, cache-blocked, batched, for any strides (the GotoBLAS scheme; Goto and
//! van de Geijn 2008, Van Zee and van de Geijn 2015).

pub(crate) mod block;
pub(crate) mod micro;
pub(crate) mod pack;
