//! Redaction of ordinary prose, of telecom talk and of text full of finds: `cargo bench -p outstation --bench redact`.

#![allow(missing_docs, reason = "criterion's macros write public items")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use outstation::redact::Redactor;

/// Around 64 KiB of a text.
fn repeated(text: &str) -> String {
    text.repeat(65_536 / text.len() + 1)
}

fn redact(c: &mut Criterion) {
    let redactor = Redactor::new();
    let texts = [
        (
            "prose",
            "The engineer walked along the fence and looked at the mast for a while. Nobody had touched the cabinet since \
             the storm in spring, he said, and the door still closed well. He took a photograph, wrote two lines in the \
             book, and drove back before it was dark; the road was wet, and the radio played an old song.\n",
        ),
        (
            "prose, German",
            "Der Techniker ging am Zaun entlang und sah eine Weile zum Mast hinauf. Seit dem Sturm im Frühjahr hatte niemand \
             den Schrank berührt, sagte er, und die Tür schloss noch gut. Er machte ein Foto, schrieb zwei Zeilen in das Buch \
             und fuhr zurück, bevor es dunkel wurde; die Straße war nass, und das Gerät spielte ein altes Stück.\n",
        ),
        (
            "telecom",
            "Site KEL-042 sector 3 lost 40 W at 12:30:45 on 2024-05-01, alarm 2117. RSRP fell from -95 dBm to -112 dBm, the \
             carrier at 3.5 GHz stayed up with version 21.4.0.7, and 17 of 20 calls failed in 15 minutes.\n",
        ),
        (
            "numbers",
            "12 34 56 78 90 11 22 33 44 55 66 77 88 99 10 20 30 40 50 60 70 80\n",
        ),
        (
            "finds",
            "Customer bob@example.com, phone +49 170 1234567, IMSI 262011234567890, lives at Berliner Straße 12, 10115 Berlin; \
             his router is 192.168.1.17 with password=hunter2x and MAC 00:1A:2B:3C:4D:5E.\n",
        ),
    ];
    let mut group = c.benchmark_group("redact");
    group.sample_size(20);
    for (name, text) in texts {
        let text = repeated(text);
        group.throughput(Throughput::Bytes(u64::try_from(text.len()).expect("small")));
        group.bench_function(name, |b| b.iter(|| redactor.redact(&text)));
    }
    group.finish();
}

fn build(c: &mut Criterion) {
    c.bench_function("build", |b| b.iter(Redactor::new));
}

criterion_group!(benches, redact, build);
criterion_main!(benches);
