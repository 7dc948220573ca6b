"""Asks `diagnose serve` with OpenAI's official Python client, and checks that the client understands every answer.

What it proves: models are listed, chats and completions are answered, whole, streamed and many at one time, a stream says
what the whole answer says, stop strings, seeds, log-probabilities, alternatives and the client's extra fields do what they
say, an adapter is picked by its name, and everything that is refused arrives as the client's exception for it. The model is
the tiny chat model in fixtures/embedded, with an adapter that `diagnose train` makes of it.

Exits with 0 when everything holds, 1 when something does not, 2 when it could not be tried. Run it with the python that
scripts/peers/environment prints.
"""

import argparse
import asyncio
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

import openai
from openai import AsyncOpenAI, OpenAI

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "fixtures" / "embedded" / "model"
DATA = ROOT / "fixtures" / "embedded" / "voice"
KEY = "a-key-for-this-test"
QUESTION = "What colour is the Blue Gull?"
STARTS_WITHIN = 120
# Of the model's 256 tokens, so that an answer takes a while.
LONG_ANSWER = 200
# The ends of the model's answers, so that a long one does not end by itself.
NO_END = {"0": -1000, "1": -1000, "2": -1000}


class Refuted(Exception):
    """Something does not hold."""


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise Refuted(what)


@dataclass
class Server:
    """A server under test."""

    process: subprocess.Popen
    address: str

    def client(self, **settings: Any) -> OpenAI:
        return OpenAI(**{"base_url": f"{self.address}/v1", "api_key": KEY, "max_retries": 0, **settings})


@contextmanager
def served(diagnose: Path, *arguments: str) -> Iterator[Server]:
    process = subprocess.Popen(
        [diagnose, "serve", MODEL, "--model-id", "gull", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MLX_DIAGNOSE_API_KEY": KEY},
    )
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    if not line.startswith("listening on "):
        process.kill()
        sys.exit(f"error: the server did not start\n{process.stderr.read()}")
    try:
        yield Server(process, line.removeprefix("listening on ").strip())
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def chat(client: OpenAI, **settings: Any) -> Any:
    question = {"model": "gull", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 30, "temperature": 0}
    return client.chat.completions.create(**{**question, **settings})


def text(answer: Any) -> str:
    return answer.choices[0].message.content


def lists_its_models(server: Server) -> None:
    models = [model.id for model in server.client().models.list()]
    expect(models == ["gull", "pirate"], f"the models are {models}")
    expect(server.client().models.retrieve("pirate").id == "pirate", "one model alone")


def chats(server: Server) -> None:
    answer = chat(server.client())
    expect("blue" in text(answer), f"the answer is {text(answer)!r}")
    expect(answer.choices[0].finish_reason == "stop", f"it ended by {answer.choices[0].finish_reason}")
    usage = answer.usage
    expect(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > usage.prompt_tokens, f"usage {usage}")
    again = chat(server.client())
    cached = again.usage.prompt_tokens_details.cached_tokens
    expect(0 < cached < usage.prompt_tokens, f"{cached} cached tokens of a prompt that was there before")
    messages = [
        {"role": "user", "content": QUESTION},
        answer.choices[0].message,
        {"role": "user", "content": [{"type": "text", "text": "Who is the harbour keeper?"}]},
    ]
    expect(len(text(chat(server.client(), messages=messages))) > 0, "an answer handed back is part of the conversation")


def streams(server: Server) -> None:
    whole = chat(server.client())
    chunks = list(chat(server.client(), stream=True, stream_options={"include_usage": True}))
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    expect("".join(parts) == text(whole), f"the stream says {parts}")
    expect(sum(part != "" for part in parts) > 3, "the answer came in parts")
    expect(chunks[0].choices[0].delta.role == "assistant", "the first chunk names the speaker")
    expect(chunks[-2].choices[0].finish_reason == "stop", "the last choice says how it ended")
    expect(chunks[-1].usage.completion_tokens == whole.usage.completion_tokens, "the last chunk has the usage")
    with server.client().chat.completions.stream(model="gull", messages=[{"role": "user", "content": QUESTION}], temperature=0) as stream:
        final = stream.get_final_completion()
    expect(text(final) == text(whole), "the client's own stream helper puts the same together")
    half = chat(server.client(), stream=True)
    next(iter(half))
    half.close()


def stops(server: Server) -> None:
    whole = text(chat(server.client()))
    word = whole.split()[3]
    for stop in (word, ["zzz", word]):
        answer = chat(server.client(), stop=stop)
        expect(text(answer) == whole[: whole.index(word)], f"with stop {stop!r} it says {text(answer)!r}")
        expect(answer.choices[0].finish_reason == "stop", "it says that it stopped")
    expect(chat(server.client(), max_completion_tokens=2, max_tokens=None).choices[0].finish_reason == "length", "length")


def seeds(server: Server) -> None:
    def say(**settings: Any) -> list[str]:
        answer = server.client().completions.create(model="gull", prompt="The sea is", max_tokens=20, temperature=1.5, **settings)
        return [choice.text for choice in answer.choices]

    expect(say(seed=7) == say(seed=7), "the same seed says the same")
    expect(say(seed=7) != say(seed=8), "another seed says something else")
    expect(say(seed=7, n=3)[0] == say(seed=7)[0], "the first of three is the answer of one")
    expect(len(set(say(seed=7, n=3))) == 3, "three answers differ")


def tells_probabilities(server: Server) -> None:
    answer = chat(server.client(), logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    expect("".join(token.token for token in content) == text(answer), "the tokens make up the text")
    for token in content:
        expect(len(token.top_logprobs) == 3 and token.logprob <= 0, f"three alternatives to {token.token!r}")
        expect(token.logprob == token.top_logprobs[0].logprob, "greedy takes the likeliest")
        expect(bytes(token.bytes).decode() == token.token, "bytes are those of the text")
        expect(sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1.0 + 1e-5, "they are probabilities")
    completion = server.client().completions.create(model="gull", prompt="The sea is", max_tokens=5, temperature=0, logprobs=2)
    told = completion.choices[0].logprobs
    expect("".join(told.tokens) == completion.choices[0].text, "a completion's tokens make up its text")
    expect(len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset) == len(told.tokens), "lengths")


def completes(server: Server) -> None:
    answer = server.client().completions.create(model="gull", prompt=["The sea is", [87, 72, 287]], max_tokens=4, temperature=0)
    expect([choice.index for choice in answer.choices] == [0, 1], "two prompts have two answers")
    chunks = list(server.client().completions.create(model="gull", prompt="The sea is", max_tokens=4, temperature=0, stream=True))
    streamed = "".join(chunk.choices[0].text for chunk in chunks)
    expect(streamed == answer.choices[0].text, f"the stream says {streamed!r}, the answer {answer.choices[0].text!r}")


def takes_extra_fields(server: Server) -> None:
    plain = text(chat(server.client()))
    same = chat(server.client(), temperature=1, seed=3, extra_body={"top_k": 1})
    expect(text(same) == plain, "of one token the likeliest is drawn")
    same = chat(server.client(), temperature=1, seed=3, extra_body={"min_p": 1.0})
    expect(text(same) == plain, "nothing below the likeliest is drawn")
    first = chat(server.client(), logprobs=True).choices[0].logprobs.content[0]
    other = chat(server.client(), presence_penalty=2, frequency_penalty=2, extra_body={"repetition_penalty": 1.5})
    expect(text(other) != plain, f"penalties change {first.token!r} and what follows")


def picks_an_adapter(server: Server) -> None:
    base, pirate = chat(server.client()), chat(server.client(), model="pirate")
    expect(pirate.model == "pirate", "the answer names its model")
    expect(text(pirate).startswith("Ahoy!") and not text(base).startswith("Ahoy!"), f"{text(base)!r}, {text(pirate)!r}")


def answers_many(server: Server) -> None:
    questions = [line for line in (ROOT / "fixtures" / "embedded" / "prompts.txt").read_text().splitlines() if line]

    async def ask() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.address}/v1", api_key=KEY, max_retries=0) as client:
            asked = [
                client.chat.completions.create(
                    model="gull", messages=[{"role": "user", "content": question}], max_tokens=30, temperature=0
                )
                for question in questions * 4
            ]
            return [text(answer) for answer in await asyncio.gather(*asked)]

    together = asyncio.run(ask())
    alone = [text(chat(server.client(), messages=[{"role": "user", "content": question}])) for question in questions]
    expect(together == alone * 4, "many at one time say what each says alone")


def refuses(server: Server) -> None:
    client = server.client()
    user = {"role": "user", "content": "Hi"}
    cases: list[tuple[type[openai.APIError], str | None, str, Callable[[], Any]]] = [
        (openai.NotFoundError, "model_not_found", "an unknown model", lambda: chat(client, model="gul")),
        (openai.BadRequestError, "invalid_value", "negative max_tokens", lambda: chat(client, max_tokens=-1)),
        (openai.BadRequestError, "context_length_exceeded", "a prompt over the context",
         lambda: chat(client, messages=[{"role": "user", "content": "word " * 400}])),
        (openai.BadRequestError, "context_length_exceeded", "an answer over the context", lambda: chat(client, max_tokens=1000)),
        (openai.BadRequestError, "invalid_value", "a wrong type", lambda: chat(client, temperature="hot")),
        (openai.BadRequestError, "invalid_value", "no messages", lambda: chat(client, messages=[])),
        (openai.BadRequestError, "unsupported_parameter", "tools",
         lambda: chat(client, tools=[{"type": "function", "function": {"name": "f"}}])),
        (openai.BadRequestError, "unsupported_parameter", "a JSON schema", lambda: chat(client, response_format={"type": "json_object"})),
        (openai.BadRequestError, "unsupported_parameter", "an echo",
         lambda: client.completions.create(model="gull", prompt="Hi", echo=True)),
        (openai.BadRequestError, "unknown_parameter", "an unknown field", lambda: chat(client, extra_body={"temprature": 1})),
        (openai.BadRequestError, "invalid_value", "an image",
         lambda: chat(client, messages=[{**user, "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])),
        (openai.AuthenticationError, "invalid_api_key", "a wrong key", lambda: chat(server.client(api_key="wrong"))),
        (openai.NotFoundError, "unknown_url", "embeddings", lambda: client.embeddings.create(model="gull", input="Hi")),
        (openai.APIStatusError, "request_too_large", "10 MB", lambda: chat(client, messages=[{**user, "content": "x" * 10_000_000}])),
        (openai.BadRequestError, "invalid_value", "a bad request for a stream", lambda: chat(client, stream=True, max_tokens=-1)),
    ]  # fmt: skip
    for kind, code, name, ask in cases:
        try:
            ask()
        except openai.APIError as error:
            expect(isinstance(error, kind), f"{name}: {type(error).__name__} instead of {kind.__name__}: {error}")
            expect(error.code == code, f"{name}: code {error.code} instead of {code}: {error}")
        else:
            raise Refuted(f"{name}: it was answered")
    chats(server)


def turns_away(diagnose: Path) -> None:
    """A full queue and the end of the server are the client's exceptions too."""
    with served(diagnose, "--max-sequences", "1", "--max-waiting", "1", "--grace", "0") as server:
        client = server.client()
        endless = {"model": "gull", "prompt": "The sea is", "max_tokens": LONG_ANSWER, "logit_bias": NO_END, "stream": True}
        held = [client.completions.create(**endless), client.completions.create(**endless)]
        first = iter(held[0])
        next(first)
        try:
            client.completions.create(model="gull", prompt="The sea is")
        except openai.RateLimitError as error:
            expect(error.response.headers["retry-after"] == "1", "it says when to come again")
        else:
            raise Refuted("a request beyond the queue was answered")
        server.process.send_signal(signal.SIGTERM)
        try:
            for _ in first:
                pass
        except openai.APIError as error:
            expect(error.code == "shutting_down", f"the stream broke off with {error.code}")
        else:
            raise Refuted("a stream that was cancelled ended as if it were whole")
        for stream in held:
            stream.close()
        code = server.process.wait(STARTS_WITHIN)
        expect(code == 0, f"exit code {code}")
        try:
            chat(client)
        except openai.APIConnectionError:
            pass
        else:
            raise Refuted("a server that has ended was asked")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--diagnose", type=Path, required=True, help="the program")
    diagnose = arguments.parse_args().diagnose.resolve()
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        # Long enough for the voice that the data has; what the rules say of so few rows is not the question here.
        settings = ["--iters", "150", "--learning-rate", "1e-3", "--no-guards", "--out", adapter]
        trained = subprocess.run([diagnose, "train", "start", MODEL, DATA, *settings], capture_output=True, text=True)
        if trained.returncode != 0:
            print(f"error: no adapter could be trained\n{trained.stderr}", file=sys.stderr)
            return 2
        checks: list[Callable[[Server], None]] = [
            lists_its_models,
            chats,
            streams,
            stops,
            seeds,
            tells_probabilities,
            completes,
            takes_extra_fields,
            picks_an_adapter,
            answers_many,
            refuses,
        ]
        failures = 0
        print(f"openai {openai.__version__}")
        with served(diagnose, "--adapter", f"pirate={adapter}") as server:
            steps = [(check.__name__, lambda check=check: check(server)) for check in checks]
            steps.append((turns_away.__name__, lambda: turns_away(diagnose)))
            for name, step in steps:
                begun = time.monotonic()
                try:
                    step()
                except (Refuted, openai.OpenAIError) as error:
                    failures += 1
                    print(f"FAILED  {name.replace('_', ' ')}: {type(error).__name__}: {error}")
                else:
                    print(f"ok      {name.replace('_', ' ')} ({time.monotonic() - begun:.1f} s)")
            server.process.send_signal(signal.SIGTERM)
            code = server.process.wait(STARTS_WITHIN)
            if code != 0:
                failures += 1
                print(f"FAILED  the server ended with {code}")
    print(f"{len(checks) + 1 - failures} of {len(checks) + 1} hold" if failures else "everything holds")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
