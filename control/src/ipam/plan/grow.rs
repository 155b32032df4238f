//! What to order when the stock is short.

use super::{Action, EniView, Kind, Rule, Situation, Supply, Units, usable_enis};

/// Orders for `short` addresses, as far as there is room.
pub(super) fn grow(situation: &Situation, short: u32) -> Vec<Action> {
    let mut orders = Orders {
        left: short,
        whole: whole(situation, short),
        actions: Vec::new(),
    };
    if situation.allowed.fill {
        orders.fill(situation);
    }
    if situation.allowed.new_enis {
        orders.add_enis(situation);
    }
    orders.actions
}

/// With WARM_ENI_TARGET an ENI is filled whole, but the pods the node may run are enough.
fn whole(situation: &Situation, short: u32) -> u32 {
    match situation.targets.rule() {
        Rule::Enis => {
            let supply = Supply::of(situation);
            let useful = supply
                .pods_to_come(situation)
                .saturating_sub(supply.spare());
            useful.max(short)
        }
        Rule::Ips | Rule::Prefixes => short,
    }
}

fn kind(situation: &Situation, fragmented: bool) -> Kind {
    match fragmented {
        true => Kind::Address,
        false => situation.targets.kind,
    }
}

struct Orders {
    /// Addresses still missing.
    left: u32,
    /// Addresses that may be ordered as long as something is missing.
    whole: u32,
    actions: Vec<Action>,
}

impl Orders {
    /// Takes up to `slots` and says in what.
    fn take(&mut self, slots: u32, kind: Kind) -> Units {
        let count = slots.min(self.whole.div_ceil(kind.addresses()));
        let units = Units::of(kind, count);
        self.left = self.left.saturating_sub(units.addresses());
        self.whole = self.whole.saturating_sub(units.addresses());
        units
    }

    fn fill(&mut self, situation: &Situation) {
        let usable = |eni: &&EniView| eni.serves_pods() && !eni.draining && !eni.subnet_full;
        for eni in situation.enis.iter().filter(usable) {
            let open = eni.open_slots(situation.limits);
            if self.left == 0 {
                return;
            }
            if open > 0 {
                let units = self.take(open, kind(situation, eni.fragmented));
                self.actions.push(Action::Fill {
                    eni_id: eni.eni_id.clone(),
                    units,
                });
            }
        }
    }

    fn add_enis(&mut self, situation: &Situation) {
        let taken = super::count(situation.enis.len() + situation.ordered_enis.len());
        let room = usable_enis(situation.targets, situation.limits, situation.unmanaged);
        let slots = situation.limits.slots();
        for _ in taken..room {
            if self.left == 0 || slots == 0 {
                return;
            }
            let units = self.take(slots, kind(situation, situation.fragmented));
            self.actions.push(Action::AddEni { units });
        }
    }
}
