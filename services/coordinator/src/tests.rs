//! The coordinator on a real socket, with workers that commit real files to a real store.

mod leases;
mod runs;
mod sandbox;
mod whole;
