//! python-tuf, the reference of The Update Framework, reads what the factory releases, over its HTTP.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use outstation_factory::keys::Keys;
use outstation_factory::ota::rollout::write;
use outstation_factory::server::{Factory, Limits};
use outstation_factory::store::Store;
use outstation_factory::{clock, web};
use tokio::net::TcpListener;

use crate::models::Model;
use crate::world::World;

const PACKAGE: &str = "tuf==7.0.0";

/// A virtual environment with the package, made once under the target folder. `None` is said aloud, and not allowed in
/// CI.
fn python() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("factory-tuf");
    let python = folder.join("bin/python");
    let works = || {
        let check = Command::new(&python)
            .args(["-c", "import tuf.ngclient"])
            .output();
        check.is_ok_and(|output| output.status.success())
    };
    if works() {
        return Some(python);
    }
    let made = Command::new("python3")
        .args(["-m", "venv"])
        .arg(&folder)
        .output();
    let install = ["-m", "pip", "install", "--quiet", PACKAGE, "cryptography"];
    let installed = made.is_ok_and(|output| output.status.success())
        && Command::new(&python)
            .args(install)
            .output()
            .is_ok_and(|output| output.status.success());
    if installed && works() {
        return Some(python);
    }
    assert!(std::env::var_os("CI").is_none(), "CI can install {PACKAGE}");
    println!("SKIP: no python3 with venv, or no package registry: python-tuf reads nothing");
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_tuf_refreshes_and_downloads() {
    let Some(python) = python() else { return };
    let now_s = clock::unix_ms() / 1000;
    let world = World::at(now_s).await;
    world.file("file", &Model::new(2, 18 * 256 * 4, 1).bytes());
    let done = world.publish("site-3b", "file", &[]).await;
    let keys = world.releasing();
    let rollout = World::rollout("canary", &done.manifest);
    write(&world.repository(), &world.pending(), rollout, &keys, now_s)
        .await
        .unwrap();
    world.repository().refresh(&keys, now_s).await.unwrap();

    let server_keys = Keys::load_or_make(&world.path("keys")).unwrap().0;
    let store = Store::new(world.objects.clone());
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let web = web::Server::start(socket, Factory::new(store, server_keys, Limits::default()));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/factory/tuf_reader.py");
    let mut command = Command::new(python);
    command
        .arg(script)
        .arg(format!("http://{address}/ota"))
        .arg(world.path("python"))
        .args([done.manifest.as_str(), "rollout/canary.json"]);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert_eq!(said.matches("PASS").count(), 4, "{said}");
    web.close().await;
}
