use expect_test::{Expect, expect};

use super::*;
use crate::registry::{Enrolment, Missing, Progress, Revocation};

const NOW: u64 = 1_000_000_000;

fn device(contact: Option<Contact>) -> Device {
    Device {
        appliance: "00112233445566778899aabbccddeeff".to_owned(),
        enrolment: Some(Enrolment {
            name: "mast 7".to_owned(),
            unix_ms: 1,
            hardware: "arm, 6 cores".to_owned(),
            key: String::new(),
        }),
        contact,
        revocation: None,
    }
}

fn contact() -> Contact {
    Contact {
        unix_ms: NOW - 30_000,
        ..Contact::default()
    }
}

fn check(device: Device, expected: Expect) {
    let shown = Shown::new(device, false, NOW);
    expected.assert_eq(&format!(
        "{}: {}",
        shown.state.word(),
        shown.trouble.join("; ")
    ));
}

#[test]
fn the_worst_is_what_is_said() {
    check(device(None), expect!["new: "]);
    check(device(Some(contact())), expect!["ok: "]);
    let silent = Contact {
        unix_ms: NOW - SILENT_AFTER_MS - 1,
        ..contact()
    };
    check(device(Some(silent)), expect!["silent: "]);
    let gap = Progress {
        missing: vec![Missing { from: 3, to: 3 }],
        ..Progress::default()
    };
    let wrong = Contact {
        progress: vec![gap],
        clock_skew_ms: -7_200_000,
        trouble: "the disk is full".to_owned(),
        ..contact()
    };
    check(
        device(Some(wrong.clone())),
        expect![
            "trouble: the disk is full; 1 segment never arrived: its spool was full, or its disk failed; its clock is 2 h behind"
        ],
    );
    let rejected = Contact {
        manifest: "manifest/site@7.json".to_owned(),
        phase: "rejected".to_owned(),
        reason: "ttft 1.9 times".to_owned(),
        ..contact()
    };
    check(
        device(Some(rejected)),
        expect!["trouble: it took manifest/site@7.json back: ttft 1.9 times"],
    );
    let cloned = Contact {
        clones: 1,
        ..contact()
    };
    check(
        device(Some(cloned)),
        expect!["clone: 1 spool was written by two machines: look for a copied disk"],
    );
    let revocation = Some(Revocation {
        unix_ms: 1,
        reason: String::new(),
    });
    let revoked = Device {
        revocation,
        ..device(Some(contact()))
    };
    check(revoked, expect!["revoked: "]);
}

#[test]
fn what_boxes_say_is_text() {
    let evil = Contact {
        agent: "<script>alert(1)</script>".to_owned(),
        model: "\" onmouseover=\"x".to_owned(),
        trouble: "<b>&'\u{202e}".to_owned(),
        ..contact()
    };
    let boxes = [Shown::new(device(Some(evil)), true, NOW)];
    let html = page(&boxes, &Totals::new(&boxes, 0.0), None);
    assert!(!html.contains("<script"), "{html}");
    assert!(
        html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
        "{html}"
    );
    assert!(html.contains("&quot; onmouseover=&quot;x"), "{html}");
    assert!(html.contains("&lt;b&gt;&amp;&#39;<"), "{html}");
    for outside in ["http:", "https:", "src=", "@import", "url("] {
        assert!(!html.contains(outside), "the page needs {outside}");
    }
}

#[test]
fn many_boxes_are_cut_off_and_counted() {
    let shown = Shown::new(device(Some(contact())), false, NOW);
    let boxes = vec![shown; 501];
    let html = page(&boxes, &Totals::new(&boxes, 0.0), None);
    assert!(html.contains("and 1 more"), "the rest is counted");
    assert!(html.contains("all is well"));
}
