//! What to do with a first packet, by how busy the listener is: accept, ask for proof of the address, or save the work.

/// The steps, cheapest for the client first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Begin the handshake.
    Accept,
    /// Let the client prove that it owns its address; costs it a round trip, us nothing.
    Retry,
    /// Say that there is no place.
    Refuse,
    /// Drop the packet.
    Ignore,
}

/// Unvalidated clients must prove their address from here on. Spoofed packets can hold this many handshakes for 5 s
/// each.
const RETRY_HANDSHAKES: u32 = 16;
/// More handshakes at once are not begun: about 0.1 s of a core for signatures on a small one.
const IGNORE_HANDSHAKES: u32 = 64;

#[derive(Debug, Clone, Copy)]
pub(super) struct Ladder {
    connections_max: u32,
}

impl Ladder {
    pub(super) fn new(connections_max: u32) -> Self {
        Self { connections_max }
    }

    /// `connections` includes the `handshakes` in flight; `validated`: the client has proved its address.
    pub(super) fn decide(&self, connections: u32, handshakes: u32, validated: bool) -> Step {
        if handshakes >= IGNORE_HANDSHAKES {
            return Step::Ignore;
        }
        // Before the refusal, as that answers a packet: not to be sent to an address nobody proved.
        if handshakes >= RETRY_HANDSHAKES && !validated {
            return Step::Retry;
        }
        if connections >= self.connections_max {
            return Step::Refuse;
        }
        Step::Accept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calm_listener_accepts() {
        assert_eq!(Ladder::new(64).decide(15, 15, false), Step::Accept);
    }

    #[test]
    fn a_busy_one_wants_proof_of_the_address() {
        let ladder = Ladder::new(64);
        assert_eq!(ladder.decide(16, 16, false), Step::Retry);
        assert_eq!(ladder.decide(16, 16, true), Step::Accept);
    }

    #[test]
    fn a_full_one_says_so() {
        let ladder = Ladder::new(64);
        assert_eq!(ladder.decide(64, 0, false), Step::Refuse);
        assert_eq!(ladder.decide(64, 16, false), Step::Retry);
    }

    #[test]
    fn a_flooded_one_saves_its_work() {
        assert_eq!(Ladder::new(4096).decide(64, 64, true), Step::Ignore);
    }
}
