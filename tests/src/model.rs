//! A model checker's view of promotion.
