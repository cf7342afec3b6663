//! `cargo xtask examples`: every client of `examples/`, as its documentation says, against one running service.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    process::{Ended, command, output, run, succeeds},
    service::{Service, Start, empty_folder, free_address},
    tools, workspace,
};

/// The packages of Go: each a module of its own, with the programs that it holds.
const GO: [(&str, &[&str]); 2] = [("examples/go", &["./grpc", "./connect"]), ("examples/go-published", &["."])];

/// Where the service listens on the pages of `docs/`.
const PAGES_ENDPOINT: &str = "http://127.0.0.1:8080";

/// Builds the service and all clients, checks that their generated code is that of `proto/`, and runs them.
pub(crate) fn run_all() -> Result<()> {
    run(&mut command("cargo", ["build", "--quiet", "--package", "apikey-server", "--package", "apikey-examples"]))?;
    let folder = empty_folder("examples")?;
    let page = free_address()?;
    let service = Service::start(&Start {
        binary: &workspace::target().join("debug/apikeys"),
        folder: &folder,
        settings: &[("APIKEYS_CORS_ALLOWED_ORIGINS", &format!("http://{page}"))],
        expects_key: true,
    })?;
    let key = service.bootstrap_key.as_deref().context("no bootstrap key")?;
    let caller = Caller { endpoint: format!("http://{}", service.public), key: key.to_owned() };

    rust(&caller, &service, &folder)?;
    go(&caller, &folder)?;
    typescript(&caller, &folder, page.port())?;
    curl(&caller, &folder)
}

/// Who calls, and where: what each example reads from its environment.
struct Caller {
    endpoint: String,
    key: String,
}

impl Caller {
    fn run(&self, command: &mut Command) -> Result<()> {
        run(command.env("APIKEYS_ENDPOINT", &self.endpoint).env("APIKEYS_KEY", &self.key))
    }
}

fn rust(caller: &Caller, service: &Service, folder: &Path) -> Result<()> {
    let programs = workspace::target().join("debug");
    for program in ["client", "published"] {
        caller.run(&mut Command::new(programs.join(program)))?;
    }
    checked_service(caller, service, &programs.join("checked_service"), folder)
}

/// A service that verifies its callers' keys: lets a valid one pass, refuses a revoked one.
fn checked_service(caller: &Caller, service: &Service, program: &Path, folder: &Path) -> Result<()> {
    let address = free_address()?;
    let process = Command::new(program)
        .env("APIKEYS_VERIFY_ENDPOINT", format!("http://{}", service.verification))
        .env("LISTEN", address.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let _ended = Ended(process);
    let url = format!("http://{address}/campaigns");
    let status = |key: &str| {
        let mut curl = command("curl", ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]);
        output(curl.args(["--header", &format!("x-api-key: {key}"), &url]))
    };
    for _ in 0..200 {
        if succeeds(&mut command("curl", ["--silent", &url])) {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    ensure!(status(&caller.key)? == "200", "a valid key was refused");

    let created =
        connect_call(caller, "CreateApiKey", r#"{"name":"checked","permissions":["PERMISSION_CAMPAIGNS_READ"]}"#)?;
    let (raw_key, id) = (text_field(&created, "rawKey")?, text_field(&created, "id")?);
    ensure!(status(raw_key)? == "200", "a new key was refused");
    connect_call(caller, "RevokeApiKey", &format!(r#"{{"id":"{id}"}}"#))?;
    ensure!(status(raw_key)? == "401", "a revoked key was accepted");
    println!("the service in Rust accepts a live key and refuses a revoked one");
    fs::write(folder.join("checked"), "")?;
    Ok(())
}

fn go(caller: &Caller, folder: &Path) -> Result<()> {
    let go = tools::go()?;
    for (module, programs) in GO {
        let module = workspace::root().join(module);
        run(command(&go, ["vet", "./..."]).current_dir(&module))?;
        for program in programs {
            let binary = folder.join("program");
            run(command(&go, ["build", "-o"]).arg(&binary).arg(program).current_dir(&module))?;
            caller.run(&mut Command::new(&binary))?;
        }
    }
    same_code(&workspace::root().join("examples/go"), "gen", folder)
}

fn typescript(caller: &Caller, folder: &Path, page_port: u16) -> Result<()> {
    let package = workspace::root().join("examples/typescript");
    run(command("npm", ["ci", "--silent"]).current_dir(&package))?;
    same_code(&package, "src/gen", folder)?;
    for script in ["check", "node", "browser"] {
        let mut npm = command("npm", ["run", "--silent", script]);
        caller.run(npm.current_dir(&package).env("PAGE_PORT", page_port.to_string()))?;
    }
    Ok(())
}

/// Fails if the code that is committed differs from what buf generates now.
fn same_code(package: &Path, generated: &str, folder: &Path) -> Result<()> {
    let fresh = folder.join("generated");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    run(command(tools::buf(), ["generate", "--output"]).arg(&fresh).current_dir(package))?;
    let compared =
        command("diff", ["--recursive", "--brief"]).arg(package.join(generated)).arg(fresh.join(generated)).output()?;
    ensure!(
        compared.status.success(),
        "generated code is stale, run `buf generate` in {}: {}",
        package.display(),
        String::from_utf8_lossy(&compared.stdout)
    );
    Ok(())
}

/// The page about curl and `buf curl`, command by command, but for the address, and the id of a key to revoke.
fn curl(caller: &Caller, folder: &Path) -> Result<()> {
    let created = connect_call(caller, "CreateApiKey", r#"{"name":"for curl"}"#)?;
    let page = fs::read_to_string(workspace::root().join("docs/clients/curl.md"))?;
    let commands: String = page.split("```sh\n").skip(1).filter_map(|block| block.split("```").next()).collect();
    ensure!(commands.contains(PAGES_ENDPOINT), "the page calls another address than {PAGES_ENDPOINT}");
    let commands = commands.replace(PAGES_ENDPOINT, &caller.endpoint).replace('…', text_field(&created, "id")?);
    let buf = tools::buf();
    let tools = buf.parent().context("buf is in no folder")?.display();
    let mut shell = command("sh", ["-eu", "-c", &format!("PATH={tools}:$PATH\n{commands}")]);
    let answers = output(shell.current_dir(folder).env("APIKEYS_KEY", &caller.key))?;
    ensure!(answers.matches("\"rawKey\"").count() == 2, "curl and buf curl were answered by {answers}");
    ensure!(answers.contains("totalCount") && answers.contains("{}"), "curl was answered by {answers}");
    println!("curl and buf curl work");
    Ok(())
}

fn connect_call(caller: &Caller, method: &str, message: &str) -> Result<String> {
    let mut curl = command("curl", ["--silent", "--show-error", "--fail-with-body", "--json", message, "--header"]);
    curl.arg(format!("x-api-key: {}", caller.key));
    output(curl.arg(format!("{}/pidgr.v1.ApiKeyService/{method}", caller.endpoint)))
}

/// The value of a string's first occurrence in JSON that holds no escapes in it.
fn text_field<'a>(json: &'a str, name: &str) -> Result<&'a str> {
    let Some((_, rest)) = json.split_once(&format!("\"{name}\"")) else { bail!("{name} is missing") };
    rest.trim_start_matches([':', ' ']).strip_prefix('"').and_then(|rest| rest.split('"').next()).context("no string")
}

#[cfg(test)]
mod tests {
    use super::text_field;

    #[test]
    fn a_field_is_found_with_and_without_spaces() {
        assert_eq!(text_field(r#"{"a":"1","rawKey": "k"}"#, "rawKey").ok(), Some("k"));
        assert!(text_field(r#"{"a":"1"}"#, "rawKey").is_err());
    }
}
