//! What calls used and cost.
//!
//! Costs are whole micro-units: millionths of whatever currency the operator writes prices in.
//! Invariant: a call that used tokens at a price costs at least one micro-unit: what it costs is
//! rounded up, once per call. Rounded to something coarser, cheap calls would be free and no cap
//! would ever be reached.
//! Invariant: sums never overflow; they stay at what a counter holds.

use serde::{Deserialize, Serialize};

/// Micro-units per million tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub input_micros: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output_micros: u64,
}

/// What was used: by a call, a turn, a session, a tenant. Fields are sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub model_calls: u64,
    /// Those of them whose tokens nobody counted: they are estimated.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub estimated_calls: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub input_tokens: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output_tokens: u64,
    /// What its own calls cost, in micro-units.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cost_micros: u64,
    /// What the agents cost that it called. Booked where they ran: no part of `cost_micros`, and of
    /// no tenant's total.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nested_micros: u64,
}

pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Four bytes are a token: what providers say of English text. Rounded up.
pub fn estimated_tokens(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

impl Price {
    const TOKENS: u128 = 1_000_000;

    pub fn is_free(&self) -> bool {
        *self == Self::default()
    }

    /// What one call costs, rounded up to a micro-unit.
    pub fn cost_micros(self, input_tokens: u64, output_tokens: u64) -> u64 {
        let part = |micros: u64, tokens: u64| u128::from(micros) * u128::from(tokens);
        let sum = part(self.input_micros, input_tokens)
            .saturating_add(part(self.output_micros, output_tokens));
        u64::try_from(sum.div_ceil(Self::TOKENS)).unwrap_or(u64::MAX)
    }
}

impl Usage {
    /// One call of a model whose tokens are known.
    pub fn of_call(price: Price, input_tokens: u64, output_tokens: u64) -> Self {
        Self {
            model_calls: 1,
            input_tokens,
            output_tokens,
            cost_micros: price.cost_micros(input_tokens, output_tokens),
            ..Self::default()
        }
    }

    /// What a turn books for an agent that it called: the cost counts against the caller's run and
    /// session, and not once more for the tenant.
    pub fn of_nested(child: Self) -> Self {
        Self {
            nested_micros: child.spent_micros(),
            ..Self::default()
        }
    }

    /// What it cost with the agents that were called.
    pub fn spent_micros(&self) -> u64 {
        self.cost_micros.saturating_add(self.nested_micros)
    }

    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Add another usage, never past what a counter holds.
    pub fn add(&mut self, other: Self) {
        *self = self.with(other, u64::saturating_add);
    }

    /// What came on top of an earlier sum of it.
    pub fn since(self, earlier: Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }

    fn with(self, other: Self, join: fn(u64, u64) -> u64) -> Self {
        Self {
            model_calls: join(self.model_calls, other.model_calls),
            estimated_calls: join(self.estimated_calls, other.estimated_calls),
            input_tokens: join(self.input_tokens, other.input_tokens),
            output_tokens: join(self.output_tokens, other.output_tokens),
            cost_micros: join(self.cost_micros, other.cost_micros),
            nested_micros: join(self.nested_micros, other.nested_micros),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn price(input_micros: u64, output_micros: u64) -> Price {
        Price {
            input_micros,
            output_micros,
        }
    }

    #[test]
    fn calls_cost_what_the_table_says() {
        for (input_price, output_price, input, output, cost) in [
            (0, 0, 1_000_000, 1_000_000, 0),
            (1, 0, 0, 1_000_000, 0),
            // A million tokens cost the price; one token costs something.
            (3_000_000, 15_000_000, 1_000_000, 0, 3_000_000),
            (3_000_000, 15_000_000, 1_000_000, 1_000_000, 18_000_000),
            (3_000_000, 15_000_000, 1, 0, 3),
            (1, 0, 1, 0, 1),
            (0, 1, 0, 1, 1),
            // Rounded once, not once per kind of token.
            (1, 1, 1, 1, 1),
            (500_000, 500_000, 1, 1, 1),
            (500_000, 500_000, 1, 2, 2),
            (400_000, 700_000, 3, 4, 4),
            (1_000_000, 0, 5, 0, 5),
            (u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX),
            (u64::MAX, 0, 1_000_000, 0, u64::MAX),
            (u64::MAX, 0, 1_000_001, 0, u64::MAX),
        ] {
            assert_eq!(
                price(input_price, output_price).cost_micros(input, output),
                cost,
                "{input_price} {output_price} {input} {output}"
            );
        }
    }

    #[test]
    fn an_estimate_is_never_nothing_for_something() {
        for (bytes, tokens) in [(0, 0), (1, 1), (4, 1), (5, 2), (u64::MAX, u64::MAX / 4 + 1)] {
            assert_eq!(estimated_tokens(bytes), tokens);
        }
    }

    #[test]
    fn usage_is_stored_as_what_there_is_of_it() {
        let json = |usage: Usage| serde_json::to_string(&usage).unwrap();
        assert_eq!(json(Usage::default()), "{}");
        let call = Usage::of_call(price(1_000_000, 2_000_000), 3, 4);
        let text = r#"{"model_calls":1,"input_tokens":3,"output_tokens":4,"cost_micros":11}"#;
        assert_eq!(json(call), text);
        assert_eq!(serde_json::from_str::<Usage>(text).unwrap(), call);
        // Of a journal written before there were prices.
        let old = r#"{"model_calls":1,"input_tokens":3,"output_tokens":4}"#;
        assert_eq!(serde_json::from_str::<Usage>(old).unwrap().cost_micros, 0);
        assert_eq!(json(Usage::of_nested(call)), r#"{"nested_micros":11}"#);
    }

    #[test]
    fn an_agent_that_was_called_costs_its_caller_once_and_the_tenant_nothing_more() {
        let grandchild = Usage::of_call(price(1_000_000, 0), 5, 0);
        let mut child = Usage::of_call(price(1_000_000, 0), 2, 0);
        child.add(Usage::of_nested(grandchild));
        let mut caller = Usage::of_call(price(1_000_000, 0), 1, 0);
        caller.add(Usage::of_nested(child));
        assert_eq!(caller.spent_micros(), 8);
        let tenant = [grandchild, child, caller].map(|usage| usage.cost_micros);
        assert_eq!(tenant.iter().sum::<u64>(), 8);
    }

    fn any_usage() -> impl Strategy<Value = Usage> {
        any::<[u64; 6]>().prop_map(|[a, b, c, d, e, f]| Usage {
            model_calls: a,
            estimated_calls: b,
            input_tokens: c,
            output_tokens: d,
            cost_micros: e,
            nested_micros: f,
        })
    }

    proptest! {
        #[test]
        fn a_cost_is_the_exact_one_rounded_up(a: u64, b: u64, input: u64, output: u64) {
            let cost = u128::from(price(a, b).cost_micros(input, output));
            let exact = (u128::from(a) * u128::from(input)).checked_add(u128::from(b) * u128::from(output));
            match exact {
                Some(exact) if exact <= u128::from(u64::MAX) * 1_000_000 => {
                    prop_assert!(cost * 1_000_000 >= exact);
                    prop_assert!(cost == 0 || (cost - 1) * 1_000_000 < exact);
                    prop_assert_eq!(cost == 0, exact == 0);
                }
                _ => prop_assert_eq!(cost, u128::from(u64::MAX)),
            }
        }

        /// Calls booked one by one cost at least what they cost together, and less than a micro-unit
        /// each more.
        #[test]
        fn sums_of_calls_are_off_by_less_than_one_each(
            a in 0u64..1 << 40, b in 0u64..1 << 40,
            calls in prop::collection::vec((0u64..1 << 20, 0u64..1 << 20), 1..20),
        ) {
            let price = price(a, b);
            let mut sum = Usage::default();
            calls.iter().for_each(|(input, output)| sum.add(Usage::of_call(price, *input, *output)));
            let whole = price.cost_micros(sum.input_tokens, sum.output_tokens);
            prop_assert_eq!(sum.model_calls, calls.len() as u64);
            prop_assert!(sum.cost_micros >= whole);
            prop_assert!(sum.cost_micros < whole + calls.len() as u64);
        }

        #[test]
        fn adding_is_in_any_order_and_never_overflows(all in prop::collection::vec(any_usage(), 0..8)) {
            let sum = |usages: &mut dyn Iterator<Item = &Usage>| {
                let mut sum = Usage::default();
                usages.for_each(|usage| sum.add(*usage));
                sum
            };
            let there = sum(&mut all.iter());
            prop_assert_eq!(there, sum(&mut all.iter().rev()));
            for usage in &all {
                prop_assert!(there.cost_micros >= usage.cost_micros);
                prop_assert!(there.spent_micros() >= there.cost_micros);
            }
            prop_assert_eq!(there.since(Usage::default()), there);
            prop_assert!(there.since(there).is_nothing());
        }
    }
}
