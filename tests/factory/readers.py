"""Other people's readers on a store of the factory.

    python3 tests/factory/readers.py FOLDER EXPECTED

FOLDER has `store`, and an export in each form under the form's name; EXPECTED is JSON with the sums that must come out.
Prints a PASS line for each reader. Needs `pip install duckdb pyarrow pandas datasets`.
"""

import json
import sys
from pathlib import Path

import duckdb
import pandas
import pyarrow
import pyarrow.dataset
import pyarrow.json
import pyarrow.parquet

FOLDER = Path(sys.argv[1])
STORE = FOLDER / "store"
EXPECTED = json.loads(sys.argv[2])


def live_files(table):
    """The files that count: what commits add, without what commits remove."""
    added, removed = {}, set()
    for commit in sorted(STORE.glob("commits/*.json")):
        commit = json.loads(commit.read_text())
        added |= {output["key"]: output for output in commit.get("outputs", ())}
        removed |= set(commit.get("removed", ()))
    return [str(STORE / key) for key, output in added.items() if key not in removed and output["table"] == table]


def documented(language):
    """A block of docs/factory.md, with this store in the place of its own."""
    text = (Path(__file__).parent / "../../docs/factory.md").read_text()
    block = text.split(f"```{language}\n")[1].split("```")[0]
    return block.replace("factory-store", str(STORE))


def duckdb_reads():
    db = duckdb.connect()
    for statement in documented("sql").split(";\n"):
        if statement.strip():
            db.execute(statement).fetchall()
    db.execute("SET VARIABLE files = live('inference')")
    rows = db.execute(
        """
        SELECT workload, count(*), sum(gen_ai_usage_output_tokens), min(dt), max(messages[2].role)
        FROM read_parquet(getvariable('files'), hive_partitioning = true) GROUP BY workload
        """
    ).fetchall()
    assert {row[0]: row[1] for row in rows} == EXPECTED["workloads"], rows
    assert sum(row[2] for row in rows) == EXPECTED["output_tokens"], rows
    assert {str(row[3]) for row in rows} == {"2026-03-01"} or len({str(row[3]) for row in rows}) == 2, rows
    assert {row[4] for row in rows} == {"user"}, rows
    flagged, unique = db.execute(
        """
        SELECT count(*) FILTER (list_contains(flags, 'truncated')), count(DISTINCT (appliance, epoch, class, record_seq))
        FROM read_parquet(getvariable('files'))
        """
    ).fetchone()
    assert (flagged, unique) == (EXPECTED["flagged"], EXPECTED["requests"]), (flagged, unique)
    db.execute("SET VARIABLE feedback = live('feedback')")
    joined = db.execute(
        """
        SELECT count(*), count(f.correction)
        FROM read_parquet(getvariable('files')) r JOIN read_parquet(getvariable('feedback')) f
        USING (appliance, gen_ai_response_id)
        """
    ).fetchone()
    assert joined == (EXPECTED["feedback"], EXPECTED["corrections"]), joined
    db.execute("SET VARIABLE gaps = live('gap')")
    gaps = db.execute("SELECT count(*), sum(records) FROM read_parquet(getvariable('gaps'))").fetchone()
    assert gaps == (EXPECTED["gaps"], 10 * EXPECTED["gaps"]), gaps
    print("PASS duckdb", duckdb.__version__)


def pyarrow_reads():
    partitions = pyarrow.schema([("dt", pyarrow.date32()), ("workload", pyarrow.string())])
    dataset = pyarrow.dataset.dataset(
        live_files("inference"), partitioning=pyarrow.dataset.partitioning(partitions, flavor="hive")
    )
    messages = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
    kind = dataset.schema.field("messages").type
    assert [f.name for f in kind.value_type] == [f.name for f in messages.value_type], kind
    assert dataset.schema.field("time").type == pyarrow.timestamp("us", "UTC"), dataset.schema
    table = dataset.to_table()
    assert len(table) == EXPECTED["requests"], len(table)
    workloads = {row["values"]: row["counts"] for row in table["workload"].value_counts().to_pylist()}
    assert workloads == EXPECTED["workloads"], workloads
    row = table.slice(0, 1).to_pylist()[0]
    assert [message["role"] for message in row["messages"]] == ["system", "user"], row
    assert row["redactions"] == [{"kind": "email", "count": 2}], row
    assert row["gen_ai_request_seed"] == 2**64 - 1, row
    assert row["adapters"] == ["plant-7"], row
    assert row["energy_mj"] is None, row
    some = dataset.to_table(filter=pyarrow.dataset.field("workload") == "plant/7 Störung", columns=["id"])
    assert len(some) == EXPECTED["workloads"]["plant/7 Störung"], len(some)
    print("PASS pyarrow", pyarrow.__version__)


def pandas_reads():
    frame = pandas.concat(pandas.read_parquet(file) for file in live_files("inference"))
    assert len(frame) == EXPECTED["requests"], frame
    assert frame["gen_ai_usage_output_tokens"].sum() == EXPECTED["output_tokens"]
    assert str(frame["time"].dt.tz) == "UTC", frame["time"].dtype
    export = pandas.read_parquet(FOLDER / "parquet")
    assert len(export) == EXPECTED["requests"], export
    assert list(export["messages"].iloc[0])[-1]["role"] == "assistant", export["messages"].iloc[0]
    names = {}
    exec(documented("python"), names)
    assert len(names["frame"]) == EXPECTED["requests"], names["frame"]
    assert names["frame"]["messages"].iloc[0][0]["role"] == "system", names["frame"]
    print("PASS pandas", pandas.__version__)


def message_list(value):
    assert isinstance(value, list) and value, value
    assert all(set(message) == {"role", "content"} for message in value), value
    return [message["role"] for message in value]


def lines_are_what_trl_documents():
    """https://huggingface.co/docs/trl/dataset_formats: conversational language modeling, preference, unpaired."""
    def lines(name):
        return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]

    chat = lines("chat-jsonl")
    assert len(chat) == EXPECTED["requests"], len(chat)
    assert all(message_list(line["messages"]) == ["system", "user", "assistant"] for line in chat)
    preference = lines("preference")
    assert len(preference) == EXPECTED["corrections"], len(preference)
    for line in preference:
        assert message_list(line["prompt"])[-1] == "user"
        assert message_list(line["chosen"]) == message_list(line["rejected"]) == ["assistant"]
        assert line["chosen"][0]["content"] == "Open valve 5, then wait."
    unpaired = lines("unpaired")
    assert len(unpaired) == EXPECTED["feedback"], len(unpaired)
    assert {type(line["label"]) for line in unpaired} == {bool}
    assert all(set(turn) == {"from", "value"} for line in lines("sharegpt") for turn in line["conversations"])
    print("PASS lines")


def datasets_reads():
    import datasets

    def load(name):
        return datasets.load_dataset("json", data_files=str(FOLDER / name), split="train")

    chat = load("chat-jsonl")
    assert chat.num_rows == EXPECTED["requests"], chat
    assert [m["role"] for m in chat[0]["messages"]] == ["system", "user", "assistant"], chat[0]
    preference = load("preference")
    assert preference.num_rows == EXPECTED["corrections"], preference
    assert {"prompt", "chosen", "rejected", "metadata"} == set(preference.column_names), preference
    assert preference[0]["chosen"][0]["role"] == "assistant", preference[0]
    assert load("unpaired").features["label"].dtype == "bool"
    assert load("completion").num_rows == EXPECTED["requests"]
    parquet = datasets.load_dataset("parquet", data_files=str(FOLDER / "parquet"), split="train")
    assert parquet.num_rows == EXPECTED["requests"], parquet
    print("PASS datasets", datasets.__version__)


if __name__ == "__main__":
    duckdb_reads()
    pyarrow_reads()
    pandas_reads()
    lines_are_what_trl_documents()
    datasets_reads()
