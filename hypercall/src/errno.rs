//! Error numbers of hypercalls, with the names and values that `hermit-abi` gives them.
//!
//! A hypercall returns zero or a positive result, or one of these negated.

/// Operation not permitted: the guest has not said hello yet.
pub const EPERM: i64 = 1;
/// No such disk, no such guard.
pub const ENOENT: i64 = 2;
/// The device has failed to do it.
pub const EIO: i64 = 5;
/// Beyond the end of the disk.
pub const ENXIO: i64 = 6;
/// Argument list or text too long.
pub const E2BIG: i64 = 7;
/// Try again after the next epoch boundary: the epoch's output buffer is full.
pub const EAGAIN: i64 = 11;
/// There is no more room.
pub const ENOMEM: i64 = 12;
/// A pointer and a length that do not lie in the guest's memory.
pub const EFAULT: i64 = 14;
/// Invalid argument.
pub const EINVAL: i64 = 22;
/// No such hypercall.
pub const ENOSYS: i64 = 38;
/// The guest was built for another version of the ABI.
pub const EPROTO: i64 = 71;
