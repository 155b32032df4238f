//! What to give back when there is more than enough: whole ENIs first, from the highest device number down, so that the
//! low route tables, which operators look at, stay.

use super::{Action, EniView, Kind, MIN_ENI_AGE, Role, Rule, Situation, Supply, Units};

/// What is not needed; nothing while an order or a return is under way, whose outcome could change the answer.
pub(super) fn shrink(situation: &Situation) -> Vec<Action> {
    let unsettled = |eni: &EniView| eni.draining || eni.ordered.slots() > 0;
    if !situation.ordered_enis.is_empty() || situation.enis.iter().any(unsettled) {
        return Vec::new();
    }
    if situation.allowed.remove_enis
        && let Some(eni) = situation
            .enis
            .iter()
            .rev()
            .find(|eni| removable(situation, eni))
    {
        return vec![Action::RemoveEni {
            eni_id: eni.eni_id.clone(),
        }];
    }
    match situation.allowed.release {
        true => release(situation),
        false => Vec::new(),
    }
}

/// What can go of ENIs in closed subnets, however short the stock is: nothing of it will be handed out again.
pub(super) fn retire(situation: &Situation) -> Vec<Action> {
    let retired =
        |eni: &&EniView| eni.role == Role::Retired && !eni.draining && eni.ordered.slots() == 0;
    let part = |eni: &EniView| {
        let eni_id = eni.eni_id.clone();
        if removable(situation, eni) {
            situation
                .allowed
                .remove_enis
                .then_some(Action::RemoveEni { eni_id })
        } else if eni.idle.slots() > 0 && eni.device_number == 0 {
            let units = eni.idle;
            situation
                .allowed
                .release
                .then_some(Action::Release { eni_id, units })
        } else {
            None
        }
    };
    situation
        .enis
        .iter()
        .filter(retired)
        .filter_map(part)
        .collect()
}

fn removable(situation: &Situation, eni: &EniView) -> bool {
    let unused = eni.device_number != 0
        && eni.assigned == 0
        && eni.cooling == 0
        && eni.age >= MIN_ENI_AGE
        && eni.role != Role::Host;
    unused && (eni.role == Role::Retired || dispensable(situation, eni))
}

/// Whether the others are enough without it.
fn dispensable(situation: &Situation, eni: &EniView) -> bool {
    let supply = Supply::of(situation);
    let targets = &situation.targets;
    let surplus = match targets.rule() {
        Rule::Enis => supply.free >= situation.limits.slots() * (targets.warm_enis + 1),
        Rule::Ips | Rule::Prefixes => true,
    };
    let rest = supply.without(eni.free);
    surplus && rest.short(situation) == 0
}

fn release(situation: &Situation) -> Vec<Action> {
    let mut over = surplus(situation);
    let mut actions = Vec::new();
    for eni in situation.enis.iter().rev() {
        let units = match eni.role {
            Role::Host => Units::default(),
            Role::Retired => eni.idle,
            Role::Pods => surplus_of(situation, eni, &mut over),
        };
        if units.slots() > 0 {
            actions.push(Action::Release {
                eni_id: eni.eni_id.clone(),
                units,
            });
        }
    }
    actions
}

/// Free addresses nobody asked for.
fn surplus(situation: &Situation) -> u32 {
    let supply = Supply::of(situation);
    supply
        .free
        .saturating_sub(supply.wanted(situation).max(situation.waiting))
}

/// What of `over` this ENI can give back. Single addresses go only when they are counted one by one, or were a stopgap
/// for prefixes; with WARM_ENI_TARGET they stay until their ENI goes.
fn surplus_of(situation: &Situation, eni: &EniView, over: &mut u32) -> Units {
    let targets = &situation.targets;
    let by_ones = targets.rule() == Rule::Ips || targets.kind == Kind::Prefix;
    let singles = match by_ones {
        true => eni.idle.singles.min(*over),
        false => 0,
    };
    *over -= singles;
    let prefixes = eni.idle.prefixes.min(*over / Kind::Prefix.addresses());
    *over -= prefixes * Kind::Prefix.addresses();
    Units { singles, prefixes }
}
