//! The walk over the parameters of a network, always in the same order.

use super::Param;

/// What holds parameters.
pub trait Params {
    /// Adds its parameters to `to`, always in the same order.
    fn collect<'a>(&'a self, to: &mut Vec<&'a Param>);

    /// Adds its parameters to `to`, in the order of [`Params::collect`].
    fn collect_mut<'a>(&'a mut self, to: &mut Vec<&'a mut Param>);
}

impl Params for Param {
    fn collect<'a>(&'a self, to: &mut Vec<&'a Param>) {
        to.push(self);
    }

    fn collect_mut<'a>(&'a mut self, to: &mut Vec<&'a mut Param>) {
        to.push(self);
    }
}

impl<T: Params> Params for Option<T> {
    fn collect<'a>(&'a self, to: &mut Vec<&'a Param>) {
        self.iter().for_each(|part| part.collect(to));
    }

    fn collect_mut<'a>(&'a mut self, to: &mut Vec<&'a mut Param>) {
        self.iter_mut().for_each(|part| part.collect_mut(to));
    }
}

impl<T: Params> Params for Vec<T> {
    fn collect<'a>(&'a self, to: &mut Vec<&'a Param>) {
        self.iter().for_each(|part| part.collect(to));
    }

    fn collect_mut<'a>(&'a mut self, to: &mut Vec<&'a mut Param>) {
        self.iter_mut().for_each(|part| part.collect_mut(to));
    }
}

/// Implements [`Params`] for a struct: the fields that hold parameters, in the order of the walk.
macro_rules! params {
    ($type:ty { $($field:ident),+ $(,)? }) => {
        impl $crate::params::Params for $type {
            fn collect<'a>(&'a self, to: &mut Vec<&'a $crate::params::Param>) {
                $(self.$field.collect(to);)+
            }

            fn collect_mut<'a>(&'a mut self, to: &mut Vec<&'a mut $crate::params::Param>) {
                $(self.$field.collect_mut(to);)+
            }
        }
    };
}
pub(crate) use params;
