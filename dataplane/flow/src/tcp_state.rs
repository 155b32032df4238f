//! The TCP state of a flow, from flags alone, with conntrack's names.
//!
//! Sequence numbers are not looked at: a forged RST moves a flow to `Close`, but it lives on
//! there for as long as packets flow, so the conversation survives what its ends ignore
//! (RFC 5961, RFC 7857 2.2). References: RFC 9293 3.3.2, RFC 5382 REQ-2, RFC 7857 2.

use penstock_packet::TcpFlags;

/// Where a TCP conversation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// SYN seen from the originator.
    SynSent,
    /// SYNs seen from both: simultaneous open.
    SynSent2,
    /// SYN answered with SYN and ACK.
    SynRecv,
    /// Open in both directions, or picked up in the middle.
    Established,
    /// One end has sent FIN.
    FinWait,
    /// That FIN was acknowledged; the other end may still send.
    CloseWait,
    /// Both ends have sent FIN.
    LastAck,
    /// Both FINs acknowledged.
    TimeWait,
    /// Reset.
    Close,
}

impl TcpState {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::SynSent,
        Self::SynSent2,
        Self::SynRecv,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::LastAck,
        Self::TimeWait,
        Self::Close,
    ];

    /// conntrack's name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::SynSent => "SYN_SENT",
            Self::SynSent2 => "SYN_SENT2",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
        }
    }

    /// Whether the conversation was seen to end: its port may be used again at once.
    #[must_use]
    pub(crate) const fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Close)
    }
}

/// Which end of the conversation sent a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Sender {
    /// The end whose packet created the flow.
    Originator,
    /// The other.
    Responder,
}

/// State of one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tcp {
    /// Where it stands.
    pub(crate) state: TcpState,
    /// Who sent the first FIN, once one was sent: a repeated FIN is not the other end's.
    finished: Option<Sender>,
}

impl Tcp {
    /// State after the first segment seen, which the originator sent.
    #[must_use]
    pub(crate) const fn first(flags: TcpFlags) -> Self {
        let (state, finished) = if flags.has(TcpFlags::RST) {
            (TcpState::Close, None)
        } else if flags.has(TcpFlags::SYN.and(TcpFlags::ACK)) {
            (TcpState::SynRecv, None)
        } else if flags.has(TcpFlags::SYN) {
            (TcpState::SynSent, None)
        } else if flags.has(TcpFlags::FIN) {
            (TcpState::FinWait, Some(Sender::Originator))
        } else {
            (TcpState::Established, None)
        };
        Self { state, finished }
    }

    /// State after a further segment. What makes no sense changes nothing. RST is judged first:
    /// it may carry ACK.
    #[must_use]
    pub(crate) fn next(self, sender: Sender, flags: TcpFlags) -> Self {
        let syn = flags.has(TcpFlags::SYN);
        let ack = flags.has(TcpFlags::ACK);
        if flags.is_nonsense() {
            self
        } else if flags.has(TcpFlags::RST) {
            Self {
                state: TcpState::Close,
                ..self
            }
        } else if syn && ack {
            self.on_syn_ack(sender)
        } else if syn {
            self.on_syn(sender)
        } else if flags.has(TcpFlags::FIN) {
            self.on_fin(sender)
        } else if ack {
            self.on_ack(sender)
        } else {
            self
        }
    }

    fn on_syn(self, sender: Sender) -> Self {
        match (self.state, sender) {
            (TcpState::TimeWait | TcpState::Close, Sender::Originator) => Self {
                state: TcpState::SynSent,
                finished: None,
            },
            (TcpState::SynSent, Sender::Responder) => Self {
                state: TcpState::SynSent2,
                ..self
            },
            _ => self,
        }
    }

    fn on_syn_ack(self, sender: Sender) -> Self {
        match (self.state, sender) {
            (TcpState::SynSent, Sender::Responder) | (TcpState::SynSent2, _) => Self {
                state: TcpState::SynRecv,
                ..self
            },
            _ => self,
        }
    }

    fn on_fin(self, sender: Sender) -> Self {
        match self.state {
            TcpState::SynRecv | TcpState::Established => Self {
                state: TcpState::FinWait,
                finished: Some(sender),
            },
            TcpState::FinWait | TcpState::CloseWait if self.finished != Some(sender) => Self {
                state: TcpState::LastAck,
                ..self
            },
            _ => self,
        }
    }

    fn on_ack(self, sender: Sender) -> Self {
        let finisher = self.finished == Some(sender);
        let state = match (self.state, sender) {
            (TcpState::SynRecv, Sender::Originator) => TcpState::Established,
            (TcpState::FinWait, _) if !finisher => TcpState::CloseWait,
            (TcpState::LastAck, _) if finisher => TcpState::TimeWait,
            (state, _) => state,
        };
        Self { state, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Sender::{Originator, Responder};
    use TcpState::{
        Close, CloseWait, Established, FinWait, LastAck, SynRecv, SynSent, SynSent2, TimeWait,
    };

    const SYN: TcpFlags = TcpFlags::SYN;
    const ACK: TcpFlags = TcpFlags::ACK;
    const SYN_ACK: TcpFlags = TcpFlags(0x12);
    const FIN_ACK: TcpFlags = TcpFlags(0x11);

    /// Every state the originator's, the responder's or nobody's FIN can lead to.
    fn every() -> impl Iterator<Item = Tcp> {
        let finished = [None, Some(Originator), Some(Responder)];
        TcpState::ALL
            .into_iter()
            .flat_map(move |state| finished.map(|finished| Tcp { state, finished }))
    }

    /// What one segment makes of a state; columns: SYN, SYN+ACK, FIN+ACK and ACK, each from the
    /// originator and from the responder. The first FIN, where one was sent, is the originator's.
    #[rustfmt::skip]
    const TABLE: [(TcpState, Option<Sender>, [TcpState; 8]); 9] = [
        //                             SYN                  SYN+ACK              FIN+ACK                ACK
        (SynSent,     None,             [SynSent,     SynSent2,    SynSent,     SynRecv,     SynSent,  SynSent,  SynSent,     SynSent]),
        (SynSent2,    None,             [SynSent2,    SynSent2,    SynRecv,     SynRecv,     SynSent2, SynSent2, SynSent2,    SynSent2]),
        (SynRecv,     None,             [SynRecv,     SynRecv,     SynRecv,     SynRecv,     FinWait,  FinWait,  Established, SynRecv]),
        (Established, None,             [Established, Established, Established, Established, FinWait,  FinWait,  Established, Established]),
        (FinWait,     Some(Originator), [FinWait,     FinWait,     FinWait,     FinWait,     FinWait,  LastAck,  FinWait,     CloseWait]),
        (CloseWait,   Some(Originator), [CloseWait,   CloseWait,   CloseWait,   CloseWait,   CloseWait, LastAck, CloseWait,   CloseWait]),
        (LastAck,     Some(Originator), [LastAck,     LastAck,     LastAck,     LastAck,     LastAck,  LastAck,  TimeWait,    LastAck]),
        (TimeWait,    Some(Originator), [SynSent,     TimeWait,    TimeWait,    TimeWait,    TimeWait, TimeWait, TimeWait,    TimeWait]),
        (Close,       None,             [SynSent,     Close,       Close,       Close,       Close,    Close,    Close,       Close]),
    ];

    #[test]
    fn the_whole_table() {
        for (state, finished, row) in TABLE {
            let mut column = row.into_iter();
            for flags in [SYN, SYN_ACK, FIN_ACK, ACK] {
                for sender in [Originator, Responder] {
                    let next = Tcp { state, finished }.next(sender, flags);
                    assert_eq!(
                        Some(next.state),
                        column.next(),
                        "{state:?} {flags:?} {sender:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn all_flags_in_all_states() {
        for tcp in every() {
            for sender in [Originator, Responder] {
                for flags in (0..64).map(TcpFlags) {
                    let next = tcp.next(sender, flags);
                    if flags.is_nonsense() {
                        assert_eq!(next, tcp, "{flags:?}");
                    } else if flags.has(TcpFlags::RST) {
                        // Before ACK: RST+ACK must never establish anything.
                        assert_eq!(next.state, Close, "{tcp:?} {flags:?}");
                    } else {
                        assert!(
                            next.state != Close || tcp.state == Close,
                            "{tcp:?} {flags:?}"
                        );
                        // PSH and URG mean nothing here.
                        assert_eq!(next, tcp.next(sender, TcpFlags(flags.0 & !0x28)));
                        // Nothing else becomes established.
                        let established = next.state == Established;
                        let from = matches!(tcp.state, SynRecv | Established);
                        assert!(!established || from, "{tcp:?} {flags:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn who_closes_first_makes_no_difference() {
        for (first, second) in [(Originator, Responder), (Responder, Originator)] {
            let open = Tcp {
                state: Established,
                finished: None,
            };
            let half = open
                .next(first, FIN_ACK)
                .next(first, FIN_ACK)
                .next(second, ACK);
            assert_eq!(half.state, CloseWait);
            let last = half.next(second, FIN_ACK).next(second, ACK);
            assert_eq!(last.state, LastAck);
            assert_eq!(last.next(first, ACK).state, TimeWait);
        }
    }

    #[test]
    fn simultaneous_open_and_reopening() {
        let open = Tcp::first(SYN)
            .next(Responder, SYN)
            .next(Originator, SYN_ACK);
        assert_eq!(
            open.next(Responder, SYN_ACK).next(Originator, ACK).state,
            Established
        );
        let closed = Tcp {
            state: TimeWait,
            finished: Some(Responder),
        };
        let again = closed
            .next(Originator, SYN)
            .next(Responder, SYN_ACK)
            .next(Originator, ACK);
        assert_eq!(
            again,
            Tcp {
                state: Established,
                finished: None
            }
        );
    }

    #[test]
    fn first_segments() {
        for (flags, state) in [
            (SYN, SynSent),
            (SYN_ACK, SynRecv),
            (ACK, Established),
            (FIN_ACK, FinWait),
            (TcpFlags::RST, Close),
            (TcpFlags::RST.and(ACK), Close),
        ] {
            assert_eq!(Tcp::first(flags).state, state);
        }
    }
}
