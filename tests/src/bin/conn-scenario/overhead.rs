//! What tracing costs, in pairs: the same slice of connections untraced and traced, in the order A B B A, so that a
//! machine that drifts weighs on both alike. Prints the median of the ratios and their spread; asserts nothing.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::storm::Storm;
use crate::sys::check;

struct Options {
    conn: String,
    pairs: usize,
    connections: u32,
    backend: String,
    one_core: bool,
}

fn options(args: &[String]) -> Result<Options> {
    let mut options = Options {
        conn: String::new(),
        pairs: 15,
        connections: 20_000,
        backend: "auto".to_owned(),
        one_core: false,
    };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        if flag == "--one-core" {
            options.one_core = true;
            continue;
        }
        let value = args.next().with_context(|| format!("{flag}: no value"))?;
        match flag.as_str() {
            "--conn" => options.conn.clone_from(value),
            "--pairs" => options.pairs = value.parse().context("--pairs")?,
            "--connections" => options.connections = value.parse().context("--connections")?,
            "--backend" => options.backend.clone_from(value),
            _ => bail!("overhead: no such flag: {flag}"),
        }
    }
    ensure!(!options.conn.is_empty(), "overhead: --conn PATH is needed");
    ensure!(options.pairs > 0, "overhead: --pairs 0");
    Ok(options)
}

/// `overhead --conn PATH [--pairs N] [--connections M] [--backend B] [--one-core]`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = options(args)?;
    if options.one_core {
        // The agent inherits it: client, server and agent share one core, the least noisy way to measure.
        one_core()?;
    }
    let slice = || -> Result<f64> {
        let storm = Storm { connections: u64::from(options.connections), threads: 1, payload: 0, burst: 0 };
        let elapsed = Duration::from_nanos(storm.blow()?.elapsed_ns);
        Ok(elapsed.as_secs_f64() * 1e9 / f64::from(options.connections.max(1)))
    };
    for _ in 0..2 {
        slice()?;
    }
    let (mut ratios, mut nulls, mut costs, mut plain) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for pair in 0..options.pairs {
        let first = slice()?;
        let agent = start(&options)?;
        let traced = [slice()?, slice()?];
        stop(agent)?;
        let last = slice()?;
        let (off, on) = (f64::midpoint(first, last), f64::midpoint(traced[0], traced[1]));
        println!(
            "pair {:>3}: untraced {first:.0} {last:.0} ns, traced {:.0} {:.0} ns, ratio {:.3}",
            pair + 1,
            traced[0],
            traced[1],
            on / off
        );
        ratios.push(on / off);
        nulls.push(last / first);
        costs.push(on - off);
        plain.push(off);
    }
    let [ratio, null] = [quartiles(&mut ratios), quartiles(&mut nulls)];
    let [cost, plain] = [quartiles(&mut costs), quartiles(&mut plain)];
    println!("untraced  {:.0} ns per connection (quartiles {:.0} to {:.0})", plain[1], plain[0], plain[2]);
    println!("cost      {:+.0} ns per connection (quartiles {:+.0} to {:+.0})", cost[1], cost[0], cost[2]);
    println!(
        "noise     {:.3} untraced against untraced (quartiles {:.3} to {:.3})",
        null[1], null[0], null[2]
    );
    println!(
        "ratio     {:.3} traced against untraced, median of {} pairs (quartiles {:.3} to {:.3})",
        ratio[1], options.pairs, ratio[0], ratio[2]
    );
    Ok(())
}

/// Starts the agent and waits until it traces.
fn start(options: &Options) -> Result<Child> {
    let mut agent = Command::new(&options.conn)
        .args(["tail", "--json", "--backend", &options.backend])
        .env("CONN_SOCKET", "")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", options.conn))?;
    let mut lines = BufReader::new(agent.stderr.take().context("no stderr")?).lines();
    let mut said = Vec::new();
    for line in lines.by_ref() {
        let line = line.context("read the agent's stderr")?;
        if line.starts_with("conn: tracing with backend ") {
            // Somebody must read what else it says, or it might block.
            std::thread::spawn(move || lines.for_each(report));
            return Ok(agent);
        }
        said.push(line);
    }
    let status = agent.wait().context("wait for the agent")?;
    bail!("the agent ended before it was ready ({status}): {}", said.join("\n"))
}

/// Shows what an agent says that is more than its totals.
fn report(line: std::io::Result<String>) {
    if let Ok(line) = line
        && line.starts_with("{\"kind\":\"totals\"")
        && !line.contains("\"gaps\":0")
    {
        println!("lost records: {line}");
    }
}

fn stop(mut agent: Child) -> Result<()> {
    // SAFETY: no pointers are passed; the pid is our child's, whom nobody has waited for yet.
    check(unsafe { libc::kill(agent.id().cast_signed(), libc::SIGINT) }).context("stop the agent")?;
    let status = agent.wait().context("wait for the agent")?;
    ensure!(status.success(), "the agent ended with {status}");
    Ok(())
}

fn one_core() -> Result<()> {
    // SAFETY: cpu_set_t is plain data, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is within every set.
    unsafe { libc::CPU_SET(0, &mut set) };
    // SAFETY: the set is as long as is said.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })
        .context("sched_setaffinity")
        .map(drop)
}

/// Lower quartile, median, upper quartile.
fn quartiles(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| {
        let position = (values.len() - 1) * quarter;
        let (low, part) = (position / 4, (position % 4) as u8);
        let high = values[(low + 1).min(values.len() - 1)];
        values[low] + (high - values[low]) * f64::from(part) / 4.0
    };
    [at(1), at(2), at(3)]
}
