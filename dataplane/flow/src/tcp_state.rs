//! The TCP state of a flow: conntrack's names, the NAT RFCs' behaviour.
//!
//! Looks at flags, and at the sequence number of a RST. What no honest stack sends never changes
//! anything (P44). Guarantees for a caller that forwards every segment whatever is decided here:
//!
//! - A RST outside the window its receiver has shown changes nothing (P46, RFC 5961 3), judged by
//!   [`reset_fits`]; the receiver will not believe it either.
//! - A RST that is believed ends the conversation for the timers only (transitory time, RFC 5382
//!   REQ-5). If the end it came from goes on talking, it was not that end's: the conversation is
//!   where it was before (RFC 7857 2.2; RFC 6146 3.5.2.2 does so for a segment of either end,
//!   which would let data still under way towards a dead end hold its port for two hours).
//! - Each end closes for itself, in either order or at once (RFC 5382 REQ-2 c).
//! - After both ends' FIN, or a RST, either end's SYN opens anew on the same tuple; established
//!   is only what both ends have sent a SYN for (N14, RFC 6146, conntrack's table).
//!
//! References: RFC 9293 3.3.2, RFC 5382 REQ-2, RFC 7857 2, RFC 5961 3.

use penstock_packet::TcpFlags;

/// Where a TCP conversation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TcpState {
    /// SYN seen from the end that opens.
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
    /// Every state, in the order of its number.
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
    pub const fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Close)
    }

    /// Whether the conversation was asked for and not agreed to: what a SYN flood leaves behind.
    #[must_use]
    pub const fn is_half_open(self) -> bool {
        matches!(self, Self::SynSent | Self::SynSent2 | Self::SynRecv)
    }

    /// The state with this number; a number too high is [`Self::Close`].
    const fn numbered(number: u8) -> Self {
        match number {
            0 => Self::SynSent,
            1 => Self::SynSent2,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            _ => Self::Close,
        }
    }
}

/// Flags that any state may answer with another.
pub(crate) const NOISY: TcpFlags = TcpFlags::SYN.and(TcpFlags::FIN).and(TcpFlags::RST);

/// Which end of the conversation sent a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The end whose packet created the flow.
    Originator,
    /// The other.
    Responder,
}

/// How far past the last acknowledgment a RST may lie: no receive window is larger than the
/// largest receive buffer that Linux grows to by itself (`tcp_rmem`, 6 MiB; twice that is
/// rounded up here). Of 256 blind guesses one hits.
pub const RESET_WINDOW: u32 = 1 << 24;

/// Whether the receiver of a RST may believe it: `sequence` lies in the window that starts at
/// `last_ack`, the last acknowledgment number that the *receiver* has sent. `None` when it has sent
/// none yet, or its last one is not known, as of a flow whose packets the hooks forward: then
/// every RST fits.
#[inline]
#[must_use]
pub const fn reset_fits(sequence: u32, last_ack: Option<u32>) -> bool {
    match last_ack {
        Some(last_ack) => sequence.wrapping_sub(last_ack) < RESET_WINDOW,
        None => true,
    }
}

/// State of one conversation; two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tcp {
    /// Where it stands.
    pub state: TcpState,
    marks: Marks,
}

const _: () = assert!(size_of::<Tcp>() == 2);

/// What the state alone does not say: from the top four bits of
/// the state before a RST, whose RST, whose FIN, whether there was one, whose SYN. Zero where they
/// mean nothing, so that equal conversations are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Marks(u8);

impl Marks {
    const NONE: Self = Self(0);
    const OPENED_BY_RESPONDER: u8 = 1;
    const FINISHED: u8 = 1 << 1;
    const FINISHED_BY_RESPONDER: u8 = 1 << 2;
    const RESET_BY_RESPONDER: u8 = 1 << 3;
    const BEFORE_SHIFT: u32 = 4;

    const fn with(self, bit: u8, sender: Sender) -> Self {
        match sender {
            Sender::Originator => self,
            Sender::Responder => Self(self.0 | bit),
        }
    }

    const fn sender(self, bit: u8) -> Sender {
        if self.0 & bit == 0 {
            Sender::Originator
        } else {
            Sender::Responder
        }
    }

    /// Whose SYN began.
    const fn opener(self) -> Sender {
        self.sender(Self::OPENED_BY_RESPONDER)
    }

    /// Who sent the first FIN, once one was sent: a repeated FIN is not the other end's.
    fn finished(self) -> Option<Sender> {
        (self.0 & Self::FINISHED != 0).then(|| self.sender(Self::FINISHED_BY_RESPONDER))
    }

    const fn finish(self, sender: Sender) -> Self {
        Self(self.0 | Self::FINISHED).with(Self::FINISHED_BY_RESPONDER, sender)
    }

    /// In `Close`: who sent the RST, and where the conversation stood.
    const fn reset(self) -> (Sender, TcpState) {
        let before = TcpState::numbered(self.0 >> Self::BEFORE_SHIFT);
        (self.sender(Self::RESET_BY_RESPONDER), before)
    }

    const fn reset_by(self, sender: Sender, before: TcpState) -> Self {
        Self(self.without_reset().0 | (before as u8) << Self::BEFORE_SHIFT)
            .with(Self::RESET_BY_RESPONDER, sender)
    }

    const fn without_reset(self) -> Self {
        Self(self.0 & 0x07)
    }
}

impl Tcp {
    /// State after the first segment seen, which the originator sent. Nonsense begins nothing:
    /// [`TcpState::Close`], from which only a SYN leads away.
    #[must_use]
    pub const fn first(flags: TcpFlags) -> Self {
        let (state, marks) = if flags.is_nonsense() || flags.has(TcpFlags::RST) {
            let marks = Marks::NONE.reset_by(Sender::Originator, TcpState::Close);
            (TcpState::Close, marks)
        } else if flags.has(TcpFlags::SYN.and(TcpFlags::ACK)) {
            let marks = Marks::NONE.with(Marks::OPENED_BY_RESPONDER, Sender::Responder);
            (TcpState::SynRecv, marks)
        } else if flags.has(TcpFlags::SYN) {
            (TcpState::SynSent, Marks::NONE)
        } else if flags.has(TcpFlags::FIN) {
            (TcpState::FinWait, Marks::NONE.finish(Sender::Originator))
        } else {
            (TcpState::Established, Marks::NONE)
        };
        Self { state, marks }
    }

    /// Whether a segment with these flags, from either end, changes nothing whatever its numbers:
    /// the common case, so that the fast path need not ask [`Self::next`].
    #[inline]
    #[must_use]
    pub const fn quiet(self, flags: TcpFlags) -> bool {
        matches!(self.state, TcpState::Established) && flags.0 & NOISY.0 == 0
    }

    /// State after a further segment that may be a RST: [`Self::next`], if the RST is believed.
    /// `last_ack` as for [`reset_fits`].
    #[must_use]
    pub fn judge(
        self,
        sender: Sender,
        flags: TcpFlags,
        sequence: u32,
        last_ack: Option<u32>,
    ) -> Self {
        if flags.has(TcpFlags::RST) && !reset_fits(sequence, last_ack) {
            return self;
        }
        self.next(sender, flags)
    }

    /// State after a further segment; a RST has been judged. What makes no sense changes nothing.
    /// RST comes first: it may carry ACK.
    #[must_use]
    pub fn next(self, sender: Sender, flags: TcpFlags) -> Self {
        let syn = flags.has(TcpFlags::SYN);
        let ack = flags.has(TcpFlags::ACK);
        if flags.is_nonsense() {
            self
        } else if flags.has(TcpFlags::RST) {
            self.on_reset(sender)
        } else if syn && ack {
            self.on_syn_ack(sender)
        } else if syn {
            self.on_syn(sender)
        } else if flags.has(TcpFlags::FIN) {
            self.revived(sender).on_fin(sender)
        } else {
            self.revived(sender).on_ack(sender)
        }
    }

    /// As an integer, for memory that outlives this process.
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        (self.state as u16) << 8 | self.marks.0 as u16
    }

    /// From any integer; one that [`Self::to_bits`] does not give becomes some state.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        let state = TcpState::numbered((bits >> 8) as u8);
        let marks = Marks(bits as u8);
        let marks = match state {
            TcpState::Close => {
                let (sender, before) = marks.reset();
                marks.reset_by(sender, before)
            }
            _ => marks.without_reset(),
        };
        Self { state, marks }
    }

    fn at(self, state: TcpState) -> Self {
        Self { state, ..self }
    }

    fn on_reset(self, sender: Sender) -> Self {
        match self.state {
            TcpState::Close => self,
            before => Self {
                state: TcpState::Close,
                marks: self.marks.reset_by(sender, before),
            },
        }
    }

    /// Where a reset conversation stood, if `sender`, who goes on talking, is said to have
    /// reset it. A SYN without an answer is not revived: only another SYN is worth it.
    fn revived(self, sender: Sender) -> Self {
        if self.state != TcpState::Close {
            return self;
        }
        match self.marks.reset() {
            (by, before) if by == sender && before != TcpState::SynSent => Self {
                state: before,
                marks: match before {
                    TcpState::Close => self.marks,
                    _ => self.marks.without_reset(),
                },
            },
            _ => self,
        }
    }

    fn on_syn(self, sender: Sender) -> Self {
        let opener = self.marks.opener();
        match self.state {
            TcpState::TimeWait | TcpState::Close => Self {
                state: TcpState::SynSent,
                marks: Marks::NONE.with(Marks::OPENED_BY_RESPONDER, sender),
            },
            TcpState::SynSent if sender != opener => self.at(TcpState::SynSent2),
            _ => self,
        }
    }

    fn on_syn_ack(self, sender: Sender) -> Self {
        let opener = self.marks.opener();
        match self.state {
            TcpState::SynSent if sender != opener => self.at(TcpState::SynRecv),
            TcpState::SynSent2 => self.at(TcpState::SynRecv),
            _ => self,
        }
    }

    fn on_fin(self, sender: Sender) -> Self {
        match self.state {
            TcpState::SynRecv | TcpState::Established => Self {
                state: TcpState::FinWait,
                marks: self.marks.finish(sender),
            },
            TcpState::FinWait | TcpState::CloseWait if self.marks.finished() != Some(sender) => {
                self.at(TcpState::LastAck)
            }
            _ => self,
        }
    }

    fn on_ack(self, sender: Sender) -> Self {
        let finisher = self.marks.finished() == Some(sender);
        match self.state {
            TcpState::SynRecv if sender == self.marks.opener() => self.at(TcpState::Established),
            TcpState::FinWait if !finisher => self.at(TcpState::CloseWait),
            TcpState::LastAck if finisher => self.at(TcpState::TimeWait),
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Sender::{Originator as A, Responder as B};
    use TcpState::{
        Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA,
        SynRecv as SR, SynSent as SS, SynSent2 as S2, TimeWait as TW,
    };

    const SYN: TcpFlags = TcpFlags::SYN;
    const ACK: TcpFlags = TcpFlags::ACK;
    const RST: TcpFlags = TcpFlags::RST;
    const SYN_ACK: TcpFlags = TcpFlags(0x12);
    const FIN_ACK: TcpFlags = TcpFlags(0x11);

    /// What each of the 64 combinations is, by number (FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG
    /// 32): SYN, SYN+ACK (w), FIN, ACK, RST, or nonsense (x).
    const CLASSES: &[u8; 64] = b"\
        xxsxrxxxxxsxrxxxafwxrxxxafwxrxxx\
        xxsxrxxxxxsxrxxxafwxrxxxafwxrxxx";

    fn other(sender: Sender) -> Sender {
        match sender {
            A => B,
            B => A,
        }
    }

    type History = &'static [(Sender, TcpFlags)];

    fn after(start: Option<Tcp>, history: &[(Sender, TcpFlags)]) -> Tcp {
        let step = |tcp: Option<Tcp>, (sender, flags): &(Sender, TcpFlags)| match tcp {
            Some(tcp) => Some(tcp.next(*sender, *flags)),
            None => Some(Tcp::first(*flags)),
        };
        history.iter().fold(start, step).unwrap()
    }

    /// How a conversation that A opens came to where it is, where that is, and what one more
    /// segment makes of it: SYN, SYN+ACK, FIN+ACK, ACK and RST of A, then of B.
    #[rustfmt::skip]
    const TABLE: [(History, TcpState, [TcpState; 5], [TcpState; 5]); 19] = [
        //                                                                                        SYN SYNACK FIN ACK RST     SYN SYNACK FIN ACK RST
        (&[(A, SYN)],                                                                         SS, [SS, SS, SS, SS, CL], [S2, SR, SS, SS, CL]),
        (&[(A, SYN), (B, SYN)],                                                               S2, [S2, SR, S2, S2, CL], [S2, SR, S2, S2, CL]),
        (&[(A, SYN), (B, SYN_ACK)],                                                           SR, [SR, SR, FW, ES, CL], [SR, SR, FW, SR, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK)],                                                 ES, [ES, ES, FW, ES, CL], [ES, ES, FW, ES, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (A, FIN_ACK)],                                   FW, [FW, FW, FW, FW, CL], [FW, FW, LA, CW, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (B, FIN_ACK)],                                   FW, [FW, FW, LA, CW, CL], [FW, FW, FW, FW, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (A, FIN_ACK), (B, ACK)],                         CW, [CW, CW, CW, CW, CL], [CW, CW, LA, CW, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (B, FIN_ACK), (A, ACK)],                         CW, [CW, CW, LA, CW, CL], [CW, CW, CW, CW, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (A, FIN_ACK), (B, FIN_ACK)],                     LA, [LA, LA, LA, TW, CL], [LA, LA, LA, LA, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (B, FIN_ACK), (A, FIN_ACK)],                     LA, [LA, LA, LA, LA, CL], [LA, LA, LA, TW, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (A, FIN_ACK), (B, FIN_ACK), (A, ACK)],           TW, [SS, TW, TW, TW, CL], [SS, TW, TW, TW, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (B, FIN_ACK), (A, FIN_ACK), (B, ACK)],           TW, [SS, TW, TW, TW, CL], [SS, TW, TW, TW, CL]),
        // A RST: only who sent it can take it back, and nothing revives a SYN that was refused.
        (&[(A, SYN), (B, RST)],                                                               CL, [SS, CL, CL, CL, CL], [SS, CL, CL, CL, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, RST)],                                                 CL, [SS, CL, FW, ES, CL], [SS, CL, CL, CL, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (A, RST)],                                       CL, [SS, CL, FW, ES, CL], [SS, CL, CL, CL, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (B, RST)],                                       CL, [SS, CL, CL, CL, CL], [SS, CL, FW, ES, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (B, RST), (A, RST)],                             CL, [SS, CL, CL, CL, CL], [SS, CL, FW, ES, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (A, FIN_ACK), (B, RST)],                         CL, [SS, CL, CL, CL, CL], [SS, CL, LA, CW, CL]),
        (&[(A, SYN), (B, SYN_ACK), (A, ACK), (A, FIN_ACK), (B, FIN_ACK), (A, ACK), (B, RST)], CL, [SS, CL, CL, CL, CL], [SS, CL, TW, TW, CL]),
    ];

    /// Every state, either sender, all 64 combinations of flags, with a RST that fits and one that
    /// does not; and the same for a conversation that the responder opens.
    #[test]
    fn the_whole_table() {
        let reset = after(None, &[(A, SYN), (A, RST)]);
        let mut states = std::collections::HashSet::new();
        for (history, state, of_a, of_b) in TABLE {
            states.insert(state);
            let mirrored: Vec<_> = history
                .iter()
                .map(|(end, flags)| (other(*end), *flags))
                .collect();
            let plain = (after(None, history), of_a, of_b);
            let swapped = (after(Some(reset), &mirrored), of_b, of_a);
            for (tcp, of_originator, of_responder) in [plain, swapped] {
                assert_eq!(tcp.state, state, "{history:?}");
                assert_eq!(Tcp::from_bits(tcp.to_bits()), tcp);
                for (sender, row) in [(A, of_originator), (B, of_responder)] {
                    for flags in (0..64).map(TcpFlags) {
                        let expected = match CLASSES[usize::from(flags.0)] {
                            b's' => row[0],
                            b'w' => row[1],
                            b'f' => row[2],
                            b'a' => row[3],
                            b'r' => row[4],
                            _ => state,
                        };
                        let next = tcp.judge(sender, flags, 7_000, Some(7_000));
                        assert_eq!(next.state, expected, "{history:?} {sender:?} {flags:?}");
                        assert_eq!(next, tcp.next(sender, flags));
                        assert_eq!(next, tcp.judge(sender, flags, 7_000, None));
                        let unfit = tcp.judge(sender, flags, 6_999, Some(7_000));
                        let believed = CLASSES[usize::from(flags.0)] != b'r';
                        assert_eq!(unfit, if believed { next } else { tcp });
                        // P44: not even what is remembered beside the state changes.
                        if flags.is_nonsense() {
                            assert_eq!(next, tcp);
                        }
                        if tcp.quiet(flags) {
                            assert_eq!(next, tcp, "{flags:?}");
                            assert_eq!(unfit, tcp);
                        }
                    }
                }
            }
        }
        assert_eq!(states.len(), TcpState::ALL.len());
    }

    #[test]
    fn plain_segments_of_an_established_conversation_are_quiet() {
        let open = after(None, &[(A, SYN), (B, SYN_ACK), (A, ACK)]);
        for flags in [ACK, ACK.and(TcpFlags::PSH), ACK.and(TcpFlags::URG)] {
            assert!(open.quiet(flags));
        }
        for flags in [SYN, SYN_ACK, FIN_ACK, RST, RST.and(ACK)] {
            assert!(!open.quiet(flags));
        }
        for (history, state, ..) in TABLE {
            assert!(!after(None, history).quiet(ACK) || state == ES);
        }
    }

    #[test]
    fn p46_a_reset_fits_from_the_last_acknowledgment_up_to_the_window() {
        for last_ack in [0, 1, 7_000, u32::MAX - 5, u32::MAX] {
            for (ahead, fits) in [
                (0, true),
                (1, true),
                (RESET_WINDOW - 1, true),
                (RESET_WINDOW, false),
                (1 << 31, false),
                (u32::MAX, false),
            ] {
                let sequence = last_ack.wrapping_add(ahead);
                assert_eq!(
                    reset_fits(sequence, Some(last_ack)),
                    fits,
                    "{last_ack} {ahead}"
                );
                assert!(reset_fits(sequence, None));
            }
        }
    }

    /// RFC 7857 2.2: a forged RST does not cost an open conversation its two hours, and a real
    /// one is not undone by what was under way towards the end that is gone.
    #[test]
    fn a_reset_stands_unless_its_sender_goes_on_talking() {
        let open = after(None, &[(A, SYN), (B, SYN_ACK), (A, ACK)]);
        let reset = open.next(A, RST);
        assert_eq!(reset.next(B, ACK.and(TcpFlags::PSH)).state, CL);
        assert_eq!(reset.next(B, ACK).next(A, ACK), open);
        let half = after(Some(open), &[(B, FIN_ACK), (A, ACK)]);
        assert_eq!(half.next(B, RST).next(B, ACK), half);
    }

    /// N14, RFC 5382 REQ-2: established again only when both have sent a SYN, whoever begins.
    #[test]
    fn n14_reopened_by_syn_of_both_ends_only() {
        for closer in [A, B] {
            let closed = after(
                None,
                &[
                    (A, SYN),
                    (B, SYN_ACK),
                    (A, ACK),
                    (closer, FIN_ACK),
                    (other(closer), FIN_ACK),
                    (closer, ACK),
                ],
            );
            assert_eq!(closed.state, TW);
            for opener in [A, B] {
                let asked = closed.next(opener, SYN);
                for (sender, flags) in [(A, ACK), (B, ACK), (opener, SYN), (opener, SYN_ACK)] {
                    assert_eq!(asked.next(sender, flags).state, SS, "{sender:?} {flags:?}");
                }
                let agreed = asked.next(other(opener), SYN_ACK);
                assert_eq!(agreed.next(other(opener), ACK).state, SR);
                let open = agreed.next(opener, ACK);
                assert_eq!(open.state, ES);
                assert_eq!(open.marks.finished(), None, "the old FINs are forgotten");
            }
        }
    }

    #[test]
    fn simultaneous_open_and_close() {
        let open = after(
            None,
            &[(A, SYN), (B, SYN), (A, SYN_ACK), (B, SYN_ACK), (A, ACK)],
        );
        assert_eq!(open.state, ES);
        let closing = after(Some(open), &[(A, FIN_ACK), (B, FIN_ACK)]);
        assert_eq!(after(Some(closing), &[(B, ACK), (A, ACK)]).state, TW);
    }

    #[test]
    fn first_segments() {
        for flags in (0..64).map(TcpFlags) {
            let expected = match CLASSES[usize::from(flags.0)] {
                b's' => SS,
                b'w' => SR,
                b'f' => FW,
                b'a' => ES,
                _ => CL,
            };
            let first = Tcp::first(flags);
            assert_eq!(first.state, expected, "{flags:?}");
            if expected == CL {
                // Nothing began, so nothing comes back but by a SYN.
                for (sender, flags) in [(A, ACK), (B, ACK), (A, FIN_ACK), (B, SYN_ACK)] {
                    assert_eq!(first.next(sender, flags).state, CL);
                }
                assert_eq!(first.next(A, SYN).state, SS);
            }
        }
        // Picked up at its second segment: the other end has opened.
        assert_eq!(Tcp::first(SYN_ACK).next(B, ACK).state, ES);
        assert_eq!(Tcp::first(SYN_ACK).next(A, ACK).state, SR);
    }

    /// Whatever is found in memory is some conversation, and goes on as one.
    #[test]
    fn every_integer_is_a_conversation() {
        for bits in 0..=u16::MAX {
            let tcp = Tcp::from_bits(bits);
            assert_eq!(Tcp::from_bits(tcp.to_bits()), tcp);
            for sender in [A, B] {
                for flags in [SYN, SYN_ACK, FIN_ACK, ACK, RST, TcpFlags(0)] {
                    let next = tcp.next(sender, flags);
                    assert_eq!(Tcp::from_bits(next.to_bits()), next, "{tcp:?} {flags:?}");
                }
            }
        }
        for (number, state) in TcpState::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, number);
            assert_eq!(TcpState::numbered(number as u8), state);
        }
    }
}
