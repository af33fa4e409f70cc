//! The pollux command: builds images, runs and watches pairs, measures
#![no_std]
