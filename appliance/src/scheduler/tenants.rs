//! Who had how much of the box lately.
//!
//! Each tenant has a clock that says until when it has had its fair part: it stands at now for whoever took less, and
//! each second of the box moves it on by as many seconds as there are tenants who want something. Whoever runs ahead is
//! *over its share*: its requests come after those of others that are due as soon, and part of the time to the first
//! token is kept free for the others. Alone, nobody is over anything.

use std::time::Duration;

use crate::request::Tenant;

/// Tenants that are told apart; the one that was seen longest ago makes room.
const TENANTS: usize = 64;

/// A tenant wants something as long after it was last seen.
const ACTIVE: Duration = Duration::from_secs(10);

/// How far a clock may run ahead before it counts: a request or two come at once without being a flood.
const TOLERANCE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Account {
    tenant: Tenant,
    seen: Duration,
    /// Until when it has had its part.
    paid_until: Duration,
    /// Columns of the planned step.
    columns: u32,
}

/// The clocks.
#[derive(Debug, Default)]
pub struct Tenants {
    accounts: heapless::Vec<Account, TENANTS>,
}

impl Tenants {
    /// Somebody asks for something.
    pub fn handle_request(&mut self, now: Duration, tenant: Tenant) {
        self.account(now, tenant).seen = now;
    }

    /// The next step carries columns of a tenant.
    pub fn handle_columns(&mut self, now: Duration, tenant: Tenant, columns: usize) {
        let account = self.account(now, tenant);
        account.seen = now;
        account.columns += u32::try_from(columns).expect("a step has few");
    }

    /// The planned step is over.
    pub fn handle_step(&mut self, now: Duration, took: Duration) {
        let all: u32 = self.accounts.iter().map(|account| account.columns).sum();
        let active = self.active(now);
        for account in &mut self.accounts {
            let columns = std::mem::take(&mut account.columns);
            if columns > 0 {
                let part = took.mul_f64(f64::from(columns) / f64::from(all));
                account.paid_until = account.paid_until.max(now) + part * active;
            }
        }
    }

    /// How far a tenant is over its share; nothing where nobody else wants any.
    pub fn over(&self, now: Duration, tenant: Tenant) -> Duration {
        if self.active(now) < 2 {
            return Duration::ZERO;
        }
        let account = self.accounts.iter().find(|a| a.tenant == tenant);
        account.map_or(Duration::ZERO, |account| {
            account.paid_until.saturating_sub(now + TOLERANCE)
        })
    }

    fn active(&self, now: Duration) -> u32 {
        let active = |account: &&Account| now.saturating_sub(account.seen) <= ACTIVE;
        u32::try_from(self.accounts.iter().filter(active).count()).expect("few")
    }

    fn account(&mut self, now: Duration, tenant: Tenant) -> &mut Account {
        let new = Account {
            tenant,
            seen: now,
            paid_until: now,
            columns: 0,
        };
        let known = self.accounts.iter().position(|a| a.tenant == tenant);
        let place = known.unwrap_or_else(|| {
            if self.accounts.push(new).is_ok() {
                return self.accounts.len() - 1;
            }
            let longest_ago = (0..TENANTS).min_by_key(|&i| self.accounts[i].seen);
            let place = longest_ago.expect("there are accounts");
            self.accounts[place] = new;
            place
        });
        &mut self.accounts[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Tenant = Tenant(1);
    const B: Tenant = Tenant(2);

    fn step(tenants: &mut Tenants, now: &mut Duration, columns: [usize; 2]) {
        let took = Duration::from_millis(100);
        for (tenant, columns) in [A, B].into_iter().zip(columns) {
            if columns > 0 {
                tenants.handle_columns(*now, tenant, columns);
            }
        }
        *now += took;
        tenants.handle_step(*now, took);
    }

    #[test]
    fn who_takes_more_than_its_part_is_over_it_while_others_want_some() {
        let mut tenants = Tenants::default();
        let mut now = Duration::from_secs(100);
        for _ in 0..100 {
            step(&mut tenants, &mut now, [4, 0]);
        }
        assert_eq!(tenants.over(now, A), Duration::ZERO, "alone");
        for _ in 0..100 {
            step(&mut tenants, &mut now, [3, 1]);
        }
        let over = tenants.over(now, A).as_secs_f64();
        assert!(
            (3.0..5.0).contains(&over),
            "{over}: 10 s, three quarters, of two"
        );
        assert_eq!(tenants.over(now, B), Duration::ZERO);
        for _ in 0..200 {
            step(&mut tenants, &mut now, [2, 2]);
        }
        assert_eq!(tenants.over(now, B), Duration::ZERO, "halves are fair");
        now += Duration::from_secs(11);
        assert_eq!(tenants.over(now, A), Duration::ZERO, "nobody wants any");
    }

    #[test]
    fn there_are_more_tenants_than_accounts() {
        let mut tenants = Tenants::default();
        let mut now = Duration::ZERO;
        for tenant in 0..1000 {
            now += Duration::from_millis(1);
            tenants.handle_request(now, Tenant(tenant));
        }
        assert_eq!(tenants.accounts.len(), TENANTS);
        assert!(tenants.accounts.iter().any(|a| a.tenant == Tenant(999)));
        assert!(tenants.accounts.iter().all(|a| a.tenant.0 >= 1000 - 64));
    }
}
