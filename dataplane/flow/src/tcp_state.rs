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
