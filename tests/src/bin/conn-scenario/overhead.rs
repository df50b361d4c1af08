//! What tracing costs, in pairs: the same slice of connections untraced and traced, in the order A B B A, so that a
//! machine that drifts weighs on both alike. Prints the median of the ratios and their spread; asserts nothing.
//!
//! With `--base` and `--with`, two configurations of `conn agent` are compared in the same way: what a part of it costs.

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
    /// Configuration of the agent that the other is compared with, and of the other; neither: `conn tail` against no agent.
    base: Option<String>,
    with: Option<String>,
}

fn options(args: &[String]) -> Result<Options> {
    let mut options = Options {
        conn: String::new(),
        pairs: 15,
        connections: 20_000,
        backend: "auto".to_owned(),
        one_core: false,
        base: None,
        with: None,
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
            "--base" => options.base = Some(value.clone()),
            "--with" => options.with = Some(value.clone()),
            _ => bail!("overhead: no such flag: {flag}"),
        }
    }
    ensure!(!options.conn.is_empty(), "overhead: --conn PATH is needed");
    ensure!(options.pairs > 0, "overhead: --pairs 0");
    ensure!(options.base.is_some() == options.with.is_some(), "overhead: --base and --with need each other");
    Ok(options)
}

/// `overhead --conn PATH [--pairs N] [--connections M] [--backend B] [--one-core] [--base CONFIG --with CONFIG]`.
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
    let (mut ratios, mut nulls, mut costs, mut plains) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (off_name, on_name) = if options.base.is_some() { ("base", "with") } else { ("untraced", "traced") };
    // Not traced, or traced by the agent that the other is compared with.
    let plain = || -> Result<f64> {
        let agent = options.base.as_ref().map(|config| start(&options, Some(config))).transpose()?;
        let took = slice()?;
        agent.map_or(Ok(took), |agent| stop(agent).map(|()| took))
    };
    for pair in 0..options.pairs {
        let first = plain()?;
        let agent = start(&options, options.with.as_ref())?;
        let traced = [slice()?, slice()?];
        stop(agent)?;
        let last = plain()?;
        let (off, on) = (f64::midpoint(first, last), f64::midpoint(traced[0], traced[1]));
        println!(
            "pair {:>3}: {off_name} {first:.0} {last:.0} ns, {on_name} {:.0} {:.0} ns, ratio {:.3}",
            pair + 1,
            traced[0],
            traced[1],
            on / off
        );
        ratios.push(on / off);
        nulls.push(last / first);
        costs.push(on - off);
        plains.push(off);
    }
    let [ratio, null] = [quartiles(&mut ratios), quartiles(&mut nulls)];
    let [cost, plain] = [quartiles(&mut costs), quartiles(&mut plains)];
    println!(
        "{off_name:<9} {:.0} ns per connection (quartiles {:.0} to {:.0})",
        plain[1], plain[0], plain[2]
    );
    println!("cost      {:+.0} ns per connection (quartiles {:+.0} to {:+.0})", cost[1], cost[0], cost[2]);
    println!(
        "noise     {:.3} {off_name} against {off_name} (quartiles {:.3} to {:.3})",
        null[1], null[0], null[2]
    );
    println!(
        "ratio     {:.3} {on_name} against {off_name}, median of {} pairs (quartiles {:.3} to {:.3})",
        ratio[1], options.pairs, ratio[0], ratio[2]
    );
    Ok(())
}

/// Starts the agent, or with a configuration the one that it is of, and waits until it traces.
fn start(options: &Options, config: Option<&String>) -> Result<Child> {
    let tail = ["tail", "--json", "--backend", &options.backend];
    let mut agent = Command::new(&options.conn)
        .args(config.map_or_else(|| tail.to_vec(), |config| vec!["agent", "--config", config]))
        // Not what another agent sees.
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
