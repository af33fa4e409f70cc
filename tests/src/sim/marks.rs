//! Coverage marks: a simulation that claims to exercise a rare path proves that the path was taken.

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident;)+) => {
        /// A rare path.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Mark {
            $($(#[$doc])* $name,)+
        }

        impl Mark {
            /// All marks.
            pub const ALL: &[Self] = &[$(Self::$name),+];
        }
    };
}

marks! {
    /// A backup was promoted before it had run an epoch.
    PromotedInPairing;
    /// A primary went solo before it had run an epoch.
    SoloInPairing;
    /// A backup was promoted in the middle of the log.
    Promoted;
    /// A primary went solo in the middle of the log.
    WentSolo;
    /// The grant came while the log was not consumed.
    GrantedWithLog;
    /// The arbiter denied a request.
    GrantDenied;
    /// An answer of the arbiter came that was no longer asked for.
    AnswerTooLate;
    /// A request was repeated.
    RequestRepeated;
    /// The link was cut and the primary went on.
    CutPrimaryWon;
    /// The link was cut and the backup went on.
    CutBackupWon;
    /// The peer was suspected because it was silent.
    SuspectedBySilence;
    /// The suspicion was found wrong.
    SuspicionCleared;
    /// A replica that had been paused found itself superseded.
    SupersededAfterPause;
    /// A replica was told by its peer that it is superseded.
    SupersededByGoodbye;
    /// A paused replica was continued and the pair went on.
    PauseSurvived;
    /// The gate was closed by the bound on the lag.
    GateLag;
    /// The gate was closed by the bound on what is outstanding.
    GateOutstanding;
    /// The gate was closed because acknowledgements were missing (original discipline).
    GateAcks;
    /// The gate was closed because the arbiter had not answered.
    GateArbiter;
    /// A promoted backup sent outputs again that the client had.
    ResentKnownOutput;
    /// A promoted backup sent outputs that the client had not.
    ResentNewOutput;
    /// Frames in flight at the primary's end were handed over by the hub.
    FramesHandedOver;
    /// A promoted replica's guest got its uncertain event.
    UncertainDelivered;
    /// Outputs were discarded because the primary had released them.
    Discarded;
    /// The link carried bytes that were noticed as corrupt.
    CorruptLink;
    /// Frames that came twice were noticed.
    RepeatedFrames;
    /// The replicas diverged and said so.
    Diverged;
    /// The replicas diverged and said so, although something else went wrong as well.
    DivergedAmongFaults;
    /// The guest ended and both replicas stopped.
    GuestStoppedInPair;
    /// The guest ended, the primary died, and the backup released what was held.
    GuestStoppedAtPromotion;
    /// A replica died between two commands of one batch.
    DiedBetweenCommands;
    /// Outputs died in the queue of a device and were sent again by the survivor.
    OutputsDiedInDevice;
    /// The supervisor told of a death after the replica had found out.
    DeathToldLate;
    /// A crash cut the link in the middle of a frame.
    CutInsideFrame;
    /// The roles changed as planned.
    HandedOver;
    /// A newcomer became a member of the pair.
    Joined;
    /// A newcomer failed before it was one.
    JoinFailed;
    /// The record was paired with a newcomer that had died meanwhile.
    PairedWithTheDead;
    /// The arbiter refused to pair the record with a newcomer that was gone.
    PairingDenied;
    /// A newcomer found that the record does not name it, and stopped.
    NewcomerDenied;
    /// A newcomer lost its primary before it held the state.
    NewcomerIncomplete;
    /// A newcomer was promoted.
    NewcomerPromoted;
    /// A newcomer was promoted before it was told that the record is paired.
    NewcomerPromotedUntold;
    /// A mirror was copied while the guest wrote to it, and a block more than once.
    BlockCopiedAgain;
    /// A newcomer's guest was told of requests to its disk that nobody had begun.
    RequestsParked;
    /// A flush that the primary's disk had done waited for the backup's.
    FlushWaited;
    /// A backup waited for its own disk.
    BackupAwaitedDisk;
    /// A backup was promoted with requests to its disk under way.
    PromotedWithDiskBusy;
    /// A flush was told to the guest of a pair.
    FlushTold;
    /// Mirrors of a pair at rest were compared.
    MirrorsCompared;
    /// A replica has left because of its disk.
    LeftForDisk;
    /// A newcomer has, or who was one.
    NewcomerLeftForDisk;
    /// Both have, because of faults within a round trip.
    BothLeftForDisks;
    /// A primary whose disk failed stayed although a newcomer had done the same: the record was not paired with it.
    FaultKeptInJoin;
    /// A mirror could not be read, or its copy not be written.
    CopyFailed;
    /// The copy of a mirror could not be made stable.
    CopyUnstable;
    /// The copy of a mirror waited for a disk that hung.
    CopyWaited;
    /// A newcomer became a member with a mirror of which flushes had promised something.
    JoinedWithPromises;
    /// A guest was told that its disk has failed.
    DiskFaultTold;
    /// A backup has left because its disk hung.
    BackupDiskHung;
    /// A primary has left because its disk hung.
    PrimaryDiskHung;
    /// A flush was told that one of the mirrors does not keep.
    FlushLost;
    /// A spoilt block was read.
    SpoiltBlockRead;
    /// Both machines were gone at once.
    PowerLost;
    /// A replica took over with requests to a shared disk outstanding.
    SharedUncertain;
    /// A newcomer took over a shared disk.
    NewcomerTookShared;
    /// A flush of a shared disk was told.
    SharedFlushTold;
    /// A process that was paused with something under way at a shared disk was killed before the other one went on.
    FencedWhilePaused;
    /// A promoted replica stored records of its predecessor again.
    StoredAgain;
    /// Records that only a dead primary had known gave way to those of its successor.
    LogReplaced;
    /// The gate was closed because too much was on its way to storage.
    GateStorage;
    /// Storage did not work for a while.
    StorageFailed;
    /// A pair in which nobody was paused served everything and stayed a pair.
    PairKept;
}

/// A set of marks.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Marks(u128);

impl Marks {
    /// Adds one.
    pub const fn set(&mut self, mark: Mark) {
        self.0 |= 1 << mark as u8;
    }

    /// Whether it is there.
    #[must_use]
    pub const fn has(self, mark: Mark) -> bool {
        self.0 & (1 << mark as u8) != 0
    }

    /// Adds all of another set.
    pub const fn merge(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Those that are not in the set.
    pub fn missing(self) -> impl Iterator<Item = Mark> {
        Mark::ALL.iter().copied().filter(move |mark| !self.has(*mark))
    }
}

const _: () = assert!(Mark::ALL.len() <= 128);
