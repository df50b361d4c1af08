//! scratch
use conn_user::agent::*;
use conn_user::event::json::*;
use conn_user::event::model::Event;
struct C {
    e: JsonEncoder,
    b: Vec<u8>,
    n: std::collections::BTreeMap<&'static str, u64>,
}
impl Consumer for C {
    fn on_event(&mut self, e: &Event) {
        *self.n.entry(e.body.kind().name()).or_default() += 1;
        self.e.encode(e, &mut self.b);
    }
    async fn flush(&mut self) -> std::io::Result<()> {
        if self.b.is_empty() {
            return Ok(());
        }
        use tokio::io::AsyncWriteExt;
        let mut o = tokio::io::stdout();
        o.write_all(&self.b).await?;
        o.flush().await?;
        self.b.clear();
        Ok(())
    }
    fn is_done(&self) -> bool {
        false
    }
}
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut c = C {
        e: JsonEncoder::new(&StreamIdentity {
            host: "h".into(),
            boot_id: "00000000-".into(),
            agent_start: conn_user::agent::clock::boot_now(),
        }),
        b: vec![],
        n: Default::default(),
    };
    let backend = std::env::args().nth(1).unwrap_or("auto".into()).parse().unwrap();
    let o = AgentOptions {
        load: conn_user::kernel::load::LoadOptions { backend, ring_bytes: 8 << 20, log_level: None },
        self_test: true,
    };
    let r = start(o, &mut |e| c.on_event(e)).await;
    let mut a = match r {
        Ok(a) => a,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(4)
        }
    };
    eprintln!("conn: tracing with backend {}", a.session.plan.backend);
    run(
        &mut a,
        &mut c,
        Limits {
            duration: std::env::args()
                .nth(2)
                .and_then(|x| x.parse().ok())
                .map(std::time::Duration::from_secs),
        },
        async { tokio::signal::ctrl_c().await.unwrap() },
    )
    .await
    .unwrap();
    eprintln!(
        "{:?} gaps {} undecoded {} counts {:?} misses {:?}",
        c.n,
        a.pipeline.gaps(),
        a.pipeline.undecoded(),
        a.pipeline.counts(),
        a.session.recursion_misses()
    );
}
