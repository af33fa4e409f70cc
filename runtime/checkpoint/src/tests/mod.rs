mod behaviour;
mod crashes;
mod damage;
mod harness;
mod properties;
