"""OpenAI's own Python package against a running server.

    python3 tests/openai/test_sdk.py http://127.0.0.1:8080     (or OUTSTATION_URL)

Prints a PASS line for each check and ends with 0, or with 1 after the first FAIL. Needs `pip install openai`.
"""

import json
import math
import os
import sys
from typing import Literal, Optional

import openai
import pydantic


def client(url):
    # One try: a retry would hide what the server said first.
    return openai.OpenAI(base_url=url.rstrip("/") + "/v1", api_key="none", max_retries=0, timeout=120)


def refused(call, kind):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"not refused with {kind.__name__}")


MESSAGES = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def models(api):
    listed = api.models.list().data
    assert len(listed) == 1, listed
    assert listed[0].object == "model"
    assert api.models.retrieve(listed[0].id) == listed[0]
    error = refused(lambda: api.models.retrieve("no-such-model"), openai.NotFoundError)
    assert error.code == "model_not_found", error.code


def chat(api):
    answer = api.chat.completions.create(model=api.served, messages=MESSAGES, max_tokens=8, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.model == api.served
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length"), choice.finish_reason
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 1 <= usage.completion_tokens <= 8, usage
    if choice.finish_reason == "length":
        assert usage.completion_tokens == 8, usage


def chat_stream(api):
    asked = dict(model=api.served, messages=MESSAGES, max_completion_tokens=8, temperature=0)
    whole = api.chat.completions.create(**asked)
    chunks = list(api.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content, (text, whole)
    finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert finishes[:-1] == [None] * (len(finishes) - 1), finishes
    assert finishes[-1] == whole.choices[0].finish_reason, finishes
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def several_answers(api):
    """They are drawn apart, and their prompt is read once."""
    asked = dict(model=api.served, max_tokens=8, temperature=1, seed=7, n=3)
    whole = api.completions.create(prompt="Once upon a time " * 30, **asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len({choice.text for choice in whole.choices}) > 1, whole.choices
    streamed = {0: "", 1: "", 2: ""}
    for chunk in api.completions.create(prompt="Once upon a time " * 30, stream=True, **asked):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == {choice.index: choice.text for choice in whole.choices}
    tiers = api.chat.completions.create(model=api.served, messages=MESSAGES, max_tokens=4, service_tier="flex")
    assert tiers.usage.completion_tokens <= 4


def completions(api):
    asked = dict(model=api.served, max_tokens=8, temperature=0, seed=7)
    answer = api.completions.create(prompt="Once upon", **asked)
    assert answer.object == "text_completion"
    assert answer.choices[0].finish_reason in ("stop", "length")
    streamed = api.completions.create(prompt="Once upon", stream=True, **asked)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text
    by_ids = api.completions.create(prompt=[1, 2, 3], **asked)
    assert by_ids.usage.prompt_tokens == 3, by_ids.usage


def vllm_fields(api):
    extra = {"ignore_eos": True, "min_tokens": 6, "top_k": 20}
    answer = api.completions.create(model=api.served, prompt="Once", max_tokens=6, extra_body=extra)
    assert answer.usage.completion_tokens == 6, answer.usage
    assert answer.choices[0].finish_reason == "length"


def logprobs(api):
    asked = dict(model=api.served, messages=MESSAGES, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3)
    choice = api.chat.completions.create(**asked).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace") == choice.message.content
    for token in tokens:
        likeliest = token.top_logprobs
        assert len(likeliest) == 3 and likeliest[0].logprob == token.logprob, "greedy draws the likeliest"
        assert 0 >= likeliest[0].logprob >= likeliest[1].logprob >= likeliest[2].logprob, likeliest
        assert sum(math.exp(other.logprob) for other in likeliest) <= 1.0001
    chunks = api.chat.completions.create(**asked, stream=True)
    streamed = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert [token for part in streamed for token in part.content] == tokens
    answer = api.completions.create(model=api.served, prompt="Once", max_tokens=6, logprobs=2).choices[0]
    lists = answer.logprobs
    assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs) == len(lists.text_offset) == 6
    assert lists.text_offset[0] == 0 and all(len(likeliest) == 2 for likeliest in lists.top_logprobs)


def errors(api):
    def ask(**fields):
        return lambda: api.chat.completions.create(**{"model": api.served, "messages": MESSAGES, **fields})

    for fields, param in [
        ({"n": 99}, "n"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json"}}, "response_format"),
        ({"response_format": schema({"type": "strnig"})}, "response_format"),
        ({"response_format": schema({"type": "string", "description": "x" * 40_000})}, "response_format"),
        ({"temperature": 1e9}, "temperature"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"messages": []}, "messages"),
    ]:
        error = refused(ask(**fields), openai.BadRequestError)
        assert error.param == param, (error.param, param)
        assert error.type == "invalid_request_error", error.type
        assert error.request_id, "no x-request-id"
    error = refused(ask(model="no-such-model"), openai.NotFoundError)
    assert error.code == "model_not_found", error.code
    error = refused(ask(max_tokens=1 << 30), openai.BadRequestError)
    assert error.code == "context_length_exceeded", error.code


def schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "alarm", "strict": True, "schema": schema}}


class Alarm(pydantic.BaseModel):
    """What the operator of a site wants to know."""

    severity: Literal["low", "middle", "high"]
    acked: bool
    tilt: Optional[Literal[-1, 0, 1]]
    parts: list[Literal["antenna", "cable"]] = pydantic.Field(max_length=3)


def structured(api):
    """Whatever the model would rather say: it has random weights, and says words."""
    for seed in range(8):
        asked = dict(model=api.served, messages=MESSAGES, temperature=1, seed=seed)
        answer = api.chat.completions.parse(response_format=Alarm, max_tokens=500, **asked)
        assert answer.choices[0].finish_reason == "stop", answer
        parsed = answer.choices[0].message.parsed
        assert isinstance(parsed, Alarm), answer
        text = ""
        with api.chat.completions.stream(response_format=Alarm, max_tokens=500, **asked) as stream:
            for event in stream:
                if event.type == "content.delta":
                    text += event.delta
            assert stream.get_final_completion().choices[0].message.parsed == parsed
        assert text == answer.choices[0].message.content, text
    form = schema({"enum": [["north", 17], None, "east"]})
    answer = api.chat.completions.create(response_format=form, **asked)
    assert json.loads(answer.choices[0].message.content) in [["north", 17], None, "east"], answer
    answer = api.chat.completions.create(response_format={"type": "json_object"}, max_tokens=400, **asked)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict), answer
    else:
        assert answer.choices[0].message.content.startswith("{"), answer
    # What is cut is no answer, and the package says so.
    refused(lambda: api.chat.completions.parse(response_format=Alarm, max_tokens=2, **asked), openai.LengthFinishReasonError)


def leaving(api):
    """A client that leaves early must not keep its place: many times more of them than there can be places."""
    for _ in range(200):
        stream = api.completions.create(
            model=api.served, prompt="Once", max_tokens=64, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    api.completions.create(model=api.served, prompt="Once", max_tokens=1)


def main():
    url = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OUTSTATION_URL", "http://127.0.0.1:8080")
    api = client(url)
    api.served = api.models.list().data[0].id
    for check in [models, chat, chat_stream, several_answers, completions, vllm_fields, logprobs, structured, errors, leaving]:
        try:
            check(api)
        except (AssertionError, openai.OpenAIError) as error:
            print(f"FAIL {check.__name__}: {type(error).__name__}: {error}")
            return 1
        print(f"PASS {check.__name__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
