//! One flow: both directions of a conversation, with everything a further packet needs.
//!
//! Created and removed whole. A packet of a known flow touches one [`Way`] and nothing else: for
//! IPv4 that is one cache line. What belongs to the pair, and is asked only when something
//! changes, is a [`Pair`]. All of it is plain bytes, valid whatever they are.

use penstock_packet::rewrite::{End, Translation};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Timestamp;
use crate::key::{Direction, FlowKey, Key, Key4, Key6};
use crate::memory::Plain;
use crate::quota::Account;
use crate::snapshot::HopId;
use crate::tcp_state::{Sender, Tcp};

/// Milliseconds on the caller's clock, without their high bits: compared only with moments less
/// than 24 days away, which every flow's timer sees to.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub(crate) struct Moment(u32);

impl From<Timestamp> for Moment {
    #[inline]
    fn from(now: Timestamp) -> Self {
        Self((now.as_nanos() / 1_000_000) as u32)
    }
}

impl Moment {
    /// Milliseconds since `earlier`.
    #[inline]
    pub(crate) const fn since(self, earlier: Self) -> u64 {
        self.0.wrapping_sub(earlier.0) as u64
    }
}

/// Generation of the rules a direction was decided under, without its high bits.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub(crate) struct Epoch(pub(crate) u32);

/// What is the same in every direction of every family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Track {
    /// Packets forwarded.
    pub(crate) packets: u64,
    /// Their bytes of IP.
    pub(crate) bytes: u64,
    /// Rules under which `hop` holds. Another one, or none, sends the packet the slow way.
    pub(crate) epoch: Epoch,
    /// Last packet.
    pub(crate) last_seen: Moment,
    /// Last TCP acknowledgment its sender gave; what a reset from the other side is held against.
    pub(crate) acknowledged: u32,
    /// Where its packets go.
    pub(crate) hop: HopId,
    /// 1: no packet without SYN, FIN or RST can change the state of the flow.
    quiet: u8,
    spare: u8,
}

impl Track {
    /// A direction without packets.
    pub(crate) const fn new(hop: HopId, epoch: Epoch, now: Moment) -> Self {
        Self {
            packets: 0,
            bytes: 0,
            epoch,
            last_seen: now,
            acknowledged: 0,
            hop,
            quiet: 0,
            spare: 0,
        }
    }

    /// Whether a packet that asks for no state change can have none.
    #[inline]
    pub(crate) const fn is_quiet(&self) -> bool {
        self.quiet == 1
    }

    /// Says so.
    pub(crate) fn set_quiet(&mut self, quiet: bool) {
        self.quiet = u8::from(quiet);
    }
}

/// One direction of a flow.
pub(crate) trait Way: Plain + Copy + std::fmt::Debug {
    /// What its packets look like when they arrive.
    type Key: Key;

    /// A direction that translates as told; IPv6 never does.
    fn new(key: Self::Key, track: Track, translation: Translation) -> Self;

    /// What its packets look like when they arrive.
    fn key(&self) -> &Self::Key;

    /// Its state.
    fn track(&self) -> &Track;

    /// Its state, to change.
    fn track_mut(&mut self) -> &mut Track;

    /// What is replaced in its packets.
    fn translation(&self) -> &Translation;

    /// Address and port that take the place of one end, if any do.
    fn replacement(&self) -> Option<End> {
        let translation = self.translation();
        translation.side().map(|_| translation.to())
    }
}

/// One direction of an IPv4 flow; a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub(crate) struct Way4 {
    key: Key4,
    track: Track,
    translation: Translation,
}

const _: () = assert!(size_of::<Way4>() == 64);

impl Way for Way4 {
    type Key = Key4;

    fn new(key: Key4, track: Track, translation: Translation) -> Self {
        Self {
            key,
            track,
            translation,
        }
    }

    #[inline]
    fn key(&self) -> &Key4 {
        &self.key
    }

    #[inline]
    fn track(&self) -> &Track {
        &self.track
    }

    #[inline]
    fn track_mut(&mut self) -> &mut Track {
        &mut self.track
    }

    #[inline]
    fn translation(&self) -> &Translation {
        &self.translation
    }
}

/// One direction of an IPv6 flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Way6 {
    key: Key6,
    track: Track,
}

impl Way for Way6 {
    type Key = Key6;

    fn new(key: Key6, track: Track, _: Translation) -> Self {
        Self { key, track }
    }

    #[inline]
    fn key(&self) -> &Key6 {
        &self.key
    }

    #[inline]
    fn track(&self) -> &Track {
        &self.track
    }

    #[inline]
    fn track_mut(&mut self) -> &mut Track {
        &mut self.track
    }

    #[inline]
    fn translation(&self) -> &Translation {
        const { &Translation::NONE }
    }
}

/// The pods at the ends of a flow, as far as a later snapshot must know them again: the low half
/// of each one's MAC, the second 0 when the other end is not a pod of this node.
pub(crate) type Pods = [u32; 2];

/// What both directions share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Pair {
    /// The pods; in a free place, the next free one.
    pub(crate) pods: Pods,
    /// When it was created; when its quarantine began, once it did.
    pub(crate) since: Moment,
    /// TCP state as [`Tcp::to_bits`] has it.
    tcp: u16,
    /// Direction of the packet that created it: 0 egress, 1 ingress.
    originator: u8,
    /// [`Stage`] as a number.
    stage: u8,
    /// ENI it leaves by; of no meaning between pods.
    pub(crate) uplink: u8,
    /// [`Carrier`] as a number.
    carrier: u8,
    /// What it is charged to, as [`Account::to_bits`] has it.
    account: u16,
}

/// Who carries a flow's plain packets, as far as its worker has asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// The worker: no hook knows the flow.
    Worker,
    /// The hooks, or they are about to.
    Hooks,
    /// The worker: what the hooks may know was decided under other rules.
    Outdated,
    /// The worker before long: the hooks were told to forget the flow and have not said they did.
    Recalled,
    /// The worker: the hooks have no room, until something changes.
    Refused,
}

impl Carrier {
    /// Whether the hooks may know the flow: its place and its port must stay taken.
    pub(crate) const fn is_known_to_hooks(self) -> bool {
        matches!(self, Self::Hooks | Self::Outdated | Self::Recalled)
    }
}

/// What a place in the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Free.
    Free,
    /// A flow that carries packets.
    Live,
    /// Dead, but its SNAT port must not be used towards this remote endpoint yet.
    Quarantined,
}

impl Pair {
    /// A live flow.
    pub(crate) fn new(flow: &NewFlow, account: Account, now: Moment) -> Self {
        Self {
            pods: flow.pods,
            since: now,
            tcp: flow.tcp.map_or(0, Tcp::to_bits),
            originator: match flow.originator {
                Direction::Egress => 0,
                Direction::Ingress => 1,
            },
            stage: 1,
            uplink: flow.uplink,
            carrier: 0,
            account: account.to_bits(),
        }
    }

    /// A free place before `next`.
    pub(crate) const fn free(next: u32) -> Self {
        Self {
            pods: [next, 0],
            since: Moment(0),
            tcp: 0,
            originator: 0,
            stage: 0,
            uplink: 0,
            carrier: 0,
            account: 0,
        }
    }

    /// Who carries it.
    pub(crate) const fn carrier(&self) -> Carrier {
        match self.carrier {
            0 => Carrier::Worker,
            1 => Carrier::Hooks,
            2 => Carrier::Outdated,
            3 => Carrier::Recalled,
            _ => Carrier::Refused,
        }
    }

    /// Says who carries it.
    pub(crate) const fn set_carrier(&mut self, carrier: Carrier) {
        self.carrier = carrier as u8;
    }

    /// What this place is.
    pub(crate) const fn stage(&self) -> Stage {
        match self.stage {
            0 => Stage::Free,
            1 => Stage::Live,
            _ => Stage::Quarantined,
        }
    }

    /// What it is charged to.
    pub(crate) const fn account(&self) -> Account {
        Account::from_bits(self.account)
    }

    /// Ends it but for its place, which it gives up when the hooks have forgotten it.
    pub(crate) const fn retire(&mut self) {
        self.stage = 2;
    }

    /// Begins the quarantine.
    pub(crate) fn quarantine(&mut self, now: Moment) {
        self.stage = 2;
        self.since = now;
    }

    /// Direction of the packet that created it.
    pub(crate) const fn originator(&self) -> Direction {
        match self.originator {
            0 => Direction::Egress,
            _ => Direction::Ingress,
        }
    }

    /// Who sends in `direction`.
    pub(crate) fn sender(&self, direction: Direction) -> Sender {
        if direction == self.originator() {
            Sender::Originator
        } else {
            Sender::Responder
        }
    }

    /// TCP state of a flow of `protocol`; `None` when that is not TCP.
    pub(crate) fn tcp(&self, protocol: u8) -> Option<Tcp> {
        (protocol == penstock_packet::wire::PROTOCOL_TCP).then(|| Tcp::from_bits(self.tcp))
    }

    /// Changes the TCP state.
    pub(crate) fn set_tcp(&mut self, tcp: Tcp) {
        self.tcp = tcp.to_bits();
    }
}

/// A flow that was decided and is not in a table yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewFlow {
    /// Key of the pod's packets.
    pub(crate) egress: FlowKey,
    /// Key of the packets to the pod; the outside end of a translated flow is in it.
    pub(crate) ingress: FlowKey,
    /// Where the pod's packets go.
    pub(crate) egress_hop: HopId,
    /// Where packets to the pod go.
    pub(crate) ingress_hop: HopId,
    /// Direction of its first packet.
    pub(crate) originator: Direction,
    /// What is replaced in the pod's packets, and in those to it.
    pub(crate) translations: [Translation; 2],
    /// TCP state after its first packet.
    pub(crate) tcp: Option<Tcp>,
    /// The pods at its ends.
    pub(crate) pods: Pods,
    /// ENI it leaves by; of no meaning between pods.
    pub(crate) uplink: u8,
}
