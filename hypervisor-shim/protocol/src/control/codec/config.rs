//! The configuration's fields on the wire.

use zerocopy::little_endian::{U16, U32, U64};

use super::{ConfigBody, KIND_CONFIG};
use crate::control::{Config, Network, Seed};
use crate::frame::MessageError;
use crate::frame::body::{self, Prefix};
use crate::{Discipline, DiskConduct, Mode, ReplicaId, Role, RunMode};

impl From<&Config<'_>> for ConfigBody {
    fn from(config: &Config<'_>) -> Self {
        let network = &config.network;
        Self {
            prefix: Prefix::of::<Self>(),
            generation: U64::new(config.generation),
            session: U64::new(config.session),
            pair_id: U64::new(config.pair_id),
            epoch_length_instructions: U64::new(config.epoch_length_instructions),
            realtime_ns: U64::new(config.realtime_ns),
            entropy: config.entropy.0,
            max_lag_ns: U64::new(config.max_lag_ns),
            heartbeat_interval_ns: U64::new(config.heartbeat_interval_ns),
            failure_timeout_ns: U64::new(config.failure_timeout_ns),
            pairing_timeout_ns: U64::new(config.pairing_timeout_ns),
            status_interval_ns: U64::new(config.status_interval_ns),
            max_outstanding_bytes: U64::new(config.max_outstanding_bytes),
            max_outstanding_epochs: U32::new(config.max_outstanding_epochs),
            max_epoch_events_bytes: U32::new(config.max_epoch_events_bytes),
            epoch_source: U32::new(config.epoch_source),
            replica: config.replica.get(),
            role: config.role.code(),
            mode: config.mode.code(),
            run_mode: config.run_mode.code(),
            discipline: config.discipline.code(),
            dhcp: network.dhcp.into(),
            checksums: network.checksums.into(),
            prefix_bits: network.prefix_bits,
            address: network.address,
            gateway: network.gateway,
            mac: network.mac,
            mtu_bytes: U16::new(network.mtu_bytes),
            check_determinism: config.check_determinism.into(),
            joins: config.joins.into(),
            restores: config.restores.into(),
            shared_disks: config.shared_disks,
            link_session: U64::new(config.link_session),
            max_unstored_bytes: U64::new(config.max_unstored_bytes),
            stores_log: config.stores_log.into(),
            replays: config.replays.into(),
            disk_conduct: config.disk_conduct.code(),
            blank_disks: config.blank_disks,
            unused: [0; 4],
            epoch_skew_instructions: U64::new(config.epoch_skew_instructions),
        }
    }
}

/// Reads a configuration.
pub(super) fn config<'a>(body: &ConfigBody, arguments: &'a str) -> Result<Config<'a>, MessageError> {
    let kind = KIND_CONFIG;
    body::unused(kind, &body.unused)?;
    Ok(Config {
        replica: body::field(kind, "replica", body.replica, ReplicaId::new)?,
        role: body::field(kind, "role", body.role, Role::from_code)?,
        mode: body::field(kind, "mode", body.mode, Mode::from_code)?,
        run_mode: body::field(kind, "run_mode", body.run_mode, RunMode::from_code)?,
        discipline: body::field(kind, "discipline", body.discipline, Discipline::from_code)?,
        generation: body.generation.get(),
        session: body.session.get(),
        pair_id: body.pair_id.get(),
        epoch_source: body.epoch_source.get(),
        epoch_length_instructions: body.epoch_length_instructions.get(),
        realtime_ns: body.realtime_ns.get(),
        entropy: Seed(body.entropy),
        max_lag_ns: body.max_lag_ns.get(),
        heartbeat_interval_ns: body.heartbeat_interval_ns.get(),
        failure_timeout_ns: body.failure_timeout_ns.get(),
        pairing_timeout_ns: body.pairing_timeout_ns.get(),
        status_interval_ns: body.status_interval_ns.get(),
        max_outstanding_epochs: body.max_outstanding_epochs.get(),
        max_epoch_events_bytes: body.max_epoch_events_bytes.get(),
        max_outstanding_bytes: body.max_outstanding_bytes.get(),
        check_determinism: body::truth(kind, "check_determinism", body.check_determinism)?,
        shared_disks: body.shared_disks,
        blank_disks: body.blank_disks,
        link_session: body.link_session.get(),
        joins: body::truth(kind, "joins", body.joins)?,
        restores: body::truth(kind, "restores", body.restores)?,
        replays: body::truth(kind, "replays", body.replays)?,
        stores_log: body::truth(kind, "stores_log", body.stores_log)?,
        disk_conduct: body::field(kind, "disk_conduct", body.disk_conduct, DiskConduct::from_code)?,
        max_unstored_bytes: body.max_unstored_bytes.get(),
        epoch_skew_instructions: body.epoch_skew_instructions.get(),
        network: network(body)?,
        arguments,
    })
}

fn network(body: &ConfigBody) -> Result<Network, MessageError> {
    let prefix_in_range = |bits| (bits <= Network::MAX_PREFIX_BITS).then_some(bits);
    Ok(Network {
        mac: body.mac,
        address: body.address,
        prefix_bits: body::field(KIND_CONFIG, "prefix_bits", body.prefix_bits, prefix_in_range)?,
        gateway: body.gateway,
        mtu_bytes: body.mtu_bytes.get(),
        dhcp: body::truth(KIND_CONFIG, "dhcp", body.dhcp)?,
        checksums: body::truth(KIND_CONFIG, "checksums", body.checksums)?,
    })
}
