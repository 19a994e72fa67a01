//! What holds for any policy, history and target.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct Draw {
    stopped: bool,
    policy: Option<(bool, i64, Vec<u8>)>,
    executable: usize,
    cgroup: usize,
    kill: bool,
    attempts: Vec<(i64, u8)>,
    busy: bool,
    lifetime_s: i64,
}

fn draws() -> impl Strategy<Value = Draw> {
    let policy = prop::option::weighted(
        0.9,
        (any::<bool>(), -5_i64..50, prop::collection::vec(0_u8..4, 0..4)),
    );
    let attempts = prop::collection::vec((-100_i64..8000, 0_u8..4), 0..14);
    let flags = (
        prop::bool::weighted(0.1),
        any::<bool>(),
        prop::bool::weighted(0.1),
    );
    (flags, policy, 0_usize..4, 0_usize..4, attempts, -2_i64..20).prop_map(
        |((stopped, kill, busy), policy, executable, cgroup, attempts, lifetime_s)| Draw {
            stopped,
            policy,
            executable,
            cgroup,
            kill,
            attempts,
            busy,
            lifetime_s,
        },
    )
}

const EXECUTABLES: [&str; 4] = [
    "/usr/bin/stress",
    "/usr/sbin/sshd",
    "/home/a/x",
    "/opt/fleetmend/fleetmend-agent",
];
const CGROUPS: [&str; 4] = ["/demo", "/demo/a", "/demonstration", "/"];

fn case_of(draw: &Draw) -> Case {
    let mut case = Case {
        sight: process(EXECUTABLES[draw.executable], CGROUPS[draw.cgroup]),
        ..Case::good()
    };
    if draw.kill {
        let process = ProcessRef {
            pid: 4711,
            start_boot_ns: 10_000_000,
            comm: "stress".to_owned(),
        };
        case.proposal = proposal(Remedy::KillProcess { process });
    }
    case.stopped = draw.stopped.then(|| "stop file".to_owned());
    case.proposal.not_after = NOW.plus_millis(draw.lifetime_s * 1000);
    case.policy = draw.policy.as_ref().map(|(enforce, left_s, grants)| {
        let grant = |kind: &u8| match kind {
            0 => throttle_grant(),
            1 => kill_grant(true),
            2 => kill_grant(false),
            _ => disk_grant("/var/tmp/x"),
        };
        let mode = if *enforce { Mode::Enforce } else { Mode::Observe };
        let mut policy = policy(mode, grants.iter().map(grant).collect());
        policy.not_after = NOW.plus_millis(left_s * 1000);
        policy
    });
    for (ago_s, ending) in &draw.attempts {
        let ending = [
            None,
            Some(Ending::Healed),
            Some(Ending::FailedSafe),
            Some(Ending::Unknown),
        ][usize::from(*ending)];
        let (remedy, target_key) = (case.proposal.remedy.name().to_owned(), case.sight.target_key());
        case.history.begin(Attempt {
            action_id: ActionId::random(),
            time: ago(*ago_s),
            remedy,
            target_key,
            ending,
        });
    }
    if draw.busy {
        case.in_flight.push(case.sight.target_key());
    }
    case
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn it_acts_only_where_everything_allows_it(draw in draws()) {
        let case = case_of(&draw);
        if let Decision::Act(grant) = case.decide() {
            let Some(policy) = &case.policy else { panic!("acts without a policy") };
            prop_assert!(case.stopped.is_none() && !draw.busy && draw.lifetime_s > 0);
            prop_assert!(policy.mode == Mode::Enforce && policy.not_after > NOW);
            prop_assert!(policy.grants.contains(&grant) && !grant.is_void());
            prop_assert_eq!(grant.remedy(), case.proposal.remedy.name());
            prop_assert!(draw.executable != 1 && draw.executable != 3, "protected");
            prop_assert!(draw.kill || draw.cgroup < 2, "out of scope");
            let within = |seconds: i64| draw.attempts.iter().filter(|(ago_s, _)| *ago_s <= seconds).count();
            prop_assert!(within(59) == 0 && within(3600) < 3 && within(3600) < 10);
        }
    }

    #[test]
    fn less_policy_never_allows_more(draw in draws()) {
        let case = case_of(&draw);
        let acted = matches!(case.decide(), Decision::Act(_));
        for without in 0..4 {
            let mut less = case_of(&draw);
            match (&mut less.policy, without) {
                (Some(policy), 0) => policy.mode = Mode::Observe,
                (Some(policy), 1) => { policy.grants.pop(); }
                (Some(policy), 2) => policy.actions_per_hour_max = 0,
                (_, _) => less.policy = None,
            }
            let acts = matches!(less.decide(), Decision::Act(_));
            prop_assert!(acted || !acts);
            prop_assert!(without == 1 || !acts);
        }
    }
}
