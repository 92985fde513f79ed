//! The default template does real work.

use crate::host::shared;
use crate::sandbox::command;

#[tokio::test]
async fn numpy_and_pandas_compute_in_the_agent_template() {
    let host = shared().await;
    let sandbox = host.sandbox("agent").await;
    let script = "import numpy as np, pandas as pd\n\
                  a = np.arange(10000, dtype=np.float64).reshape(100, 100)\n\
                  frame = pd.DataFrame({'k': np.arange(1000) % 7, 'v': np.arange(1000)})\n\
                  print(int(np.trace(a @ a.T)), int(round(np.linalg.det(np.diag([2., 3., 7.])))))\n\
                  print(frame.groupby('k').v.sum().tolist())";
    let done = sandbox.exec(&command(&["python3", "-c", script])).await;
    assert_eq!(done.code(), 0, "{}", done.stderr());
    // The trace of A·Aᵀ is the sum of the squares of 0 to 9999.
    let squares: u64 = (0..10_000_u64).map(|n| n * n).sum();
    let sums: Vec<u64> = (0..7).map(|k| (0..1000).filter(|n| n % 7 == k).sum()).collect();
    assert_eq!(done.stdout(), format!("{squares} 42\n{sums:?}\n"));
}

#[tokio::test]
async fn what_the_template_promises_is_installed() {
    let host = shared().await;
    let sandbox = host.sandbox("agent").await;
    let script = "python3 -m pip --version && python3 -m venv --help >/dev/null && git --version \
                  && curl --version | head -1 && test -s /etc/ssl/certs/ca-certificates.crt \
                  && python3 -c 'import matplotlib, psycopg; print(\"imported\")'";
    let said = sandbox.text(script).await;
    assert!(said.starts_with("pip ") && said.ends_with("imported"), "{said}");
}
