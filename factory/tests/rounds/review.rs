//! The page on which a person labels.

use outstation_factory::rounds::labels;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// One request over a connection of its own.
async fn ask(address: std::net::SocketAddr, method: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn hidden<'p>(page: &'p str, name: &str) -> &'p str {
    let (_, rest) = page.split_once(&format!("name={name} value='")).unwrap();
    rest.split_once('\'').unwrap().0
}

#[tokio::test]
async fn a_person_is_shown_each_case_once_and_what_is_said_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let round = folder.path().join("0001");
    std::fs::create_dir(&round).unwrap();
    std::fs::write(round.join("round.json"), r#"{"number":1}"#).unwrap();
    let case = |id: &str, text: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":"{text}"}},{{"role":"assistant","content":"no idea"}}],
               "metadata":{{"id":"{id}","flags":["hard_case"]}}}}"#
        )
        .replace("\n               ", "")
    };
    let cases = [
        case("a", "is <b> & 'c' there?"),
        case("b", "and b?"),
        case("c", "and c?"),
    ];
    std::fs::write(round.join("cases.jsonl"), cases.join("\n")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let work = folder.path().to_owned();
    tokio::spawn(outstation_factory::rounds::review(
        work,
        "ann".to_owned(),
        listener,
    ));

    let page = ask(address, "GET", "").await;
    assert!(
        page.contains("3 cases wait") && page.contains("hard_case"),
        "{page}"
    );
    assert!(
        page.contains("is &lt;b&gt; &amp; &#39;c&#39; there?"),
        "{page}"
    );
    let secret = hidden(&page, "secret").to_owned();
    let forged = ask(address, "POST", "secret=0&round=1&id=a&answer=x&what=save").await;
    assert!(forged.starts_with("HTTP/1.1 403"), "{forged}");
    let empty = format!("secret={secret}&round=1&id=a&answer=++&what=save");
    assert!(
        ask(address, "POST", &empty)
            .await
            .starts_with("HTTP/1.1 422")
    );
    for (id, answer, what) in [("a", "yes%2C+it+is", "save"), ("b", "no+idea", "skip")] {
        let form = format!("secret={secret}&round=1&id={id}&answer={answer}&what={what}");
        let saved = ask(address, "POST", &form).await;
        assert!(saved.starts_with("HTTP/1.1 303"), "{saved}");
    }
    let page = ask(address, "GET", "").await;
    assert!(
        page.contains("1 cases wait") && page.contains("and c?"),
        "{page}"
    );
    let said = labels(&round.join("labels.jsonl")).unwrap();
    assert_eq!(said["a"].answer.as_deref(), Some("yes, it is"));
    assert_eq!((&*said["a"].by, &said["b"].answer), ("ann", &None));
    let form = format!("secret={secret}&round=1&id=c&answer=c&what=save");
    ask(address, "POST", &form).await;
    assert!(ask(address, "GET", "").await.contains("No case waits"));
}
