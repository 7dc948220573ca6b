#!/usr/bin/env python3
"""Write the training text of the embedded model from its hand-written facts.

Reads fixtures/embedded/corpus/facts.json and writes train.jsonl and
valid.jsonl beside it, one chat record a line in mlx-lm's format. The same
facts always give the same bytes. Needs Python 3.9 or newer and nothing else.

  make-corpus.py          write both files and print the statistics
  make-corpus.py --check  write nothing; exit 1 if the committed files differ

facts.json holds:
  forms     for each kind of entity and each relation, the question templates
            ("ask") and, where one exists, the question that only makes sense
            as a second turn ("follow_up")
  entities  for each kind, the entities with the words that the templates take
            and one answer for each relation
  talk      answers with their own list of questions
  systems   system messages that change nothing about the answer
  speakers  system messages that put words before and after the answer, so that
            the model knows that one fact can be said in more than one voice
  opening, closing
            the talk that may come before or after a question in one record
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

CORPUS = Path(__file__).resolve().parents[2] / "fixtures" / "embedded" / "corpus"

SEED = "lantern-bay-1"
VALID_SHARE = 0.05
# A question is held out only while at least this share of the questions made
# from the same template stays in train, so that its wording has been seen.
TEMPLATE_SHARE_IN_TRAIN = 0.6
# A fact keeps at least this many of its questions in train.
PARAPHRASES_IN_TRAIN = 4
SYSTEM_ONE_IN = 10
FOLLOW_UPS_PER_ENTITY = 2
OPENED_RECORDS = 24
CLOSED_RECORDS = 24
RECORDS_OF_A_SPEAKER = 40

ANSWER_WORDS = (6, 25)
# A tokenizer of about 1,000 entries then has a whole-word entry for most words.
DISTINCT_WORDS = 700


class CorpusError(Exception):
    """The facts break a rule of the corpus; the message lists every breach."""


@dataclass(frozen=True)
class Question:
    """One wording of a question, with the template it was made from."""

    text: str
    fact: str
    template: str | None


@dataclass(frozen=True)
class FollowUp:
    """A question that refers to the entity named in the turn before it."""

    entity: str
    fact: str
    text: str


@dataclass(frozen=True)
class Speaker:
    """A voice that a system message asks for."""

    system: str
    before: str
    after: str

    def say(self, answer: str) -> str:
        return f"{self.before} {answer[:-1]}, {self.after}."


@dataclass(frozen=True)
class Conversation:
    """Alternating user and assistant texts, an answer last."""

    turns: tuple[str, ...]
    system: str | None = None

    def questions(self) -> tuple[str, ...]:
        return self.turns[::2]

    def answers(self) -> tuple[str, ...]:
        return self.turns[1::2]

    def prompt(self) -> tuple[str | None, ...]:
        return (self.system, *self.turns[:-1])

    def texts(self) -> tuple[str, ...]:
        return self.turns if self.system is None else (self.system, *self.turns)


@dataclass(frozen=True)
class Facts:
    systems: list[str]
    speakers: list[Speaker]
    opening: str
    closing: str
    answers: dict[str, str]
    questions: list[Question]
    follow_ups: list[FollowUp]
    facts_of_entity: dict[str, list[str]]


def draw(*parts: object) -> int:
    """A number that depends on the seed and the parts alone, on any Python."""
    text = "\x1f".join([SEED, *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def read_facts(path: Path) -> Facts:
    with path.open(encoding="utf-8") as file:
        source = json.load(file)
    answers: dict[str, str] = {}
    questions: list[Question] = []
    follow_ups: list[FollowUp] = []
    facts_of_entity: dict[str, list[str]] = defaultdict(list)
    problems: list[str] = []

    def add_answer(fact: str, answer: str) -> None:
        if fact in answers:
            problems.append(f"fact {fact} is given twice")
        answers[fact] = answer

    def fill(template: str, words: dict[str, str], fact: str) -> str:
        try:
            return template.format_map(words)
        except KeyError as missing:
            problems.append(f"fact {fact} has no {missing} for {template!r}")
            return template

    for kind, entities in source["entities"].items():
        for entity in entities:
            words = {key: value for key, value in entity.items() if key != "answers"}
            subject = f"{kind}/{next(iter(words.values()))}"
            for relation, answer in entity["answers"].items():
                fact = f"{subject}/{relation}"
                form = source["forms"][kind].get(relation)
                if form is None:
                    problems.append(f"fact {fact} has no question form")
                    continue
                add_answer(fact, answer)
                facts_of_entity[subject].append(fact)
                for template in form["ask"]:
                    text = fill(template, words, fact)
                    questions.append(Question(text, fact, f"{kind}/{relation}/{template}"))
                if "follow_up" in form:
                    text = fill(form["follow_up"], words, fact)
                    follow_ups.append(FollowUp(subject, fact, text))
    for talk in source["talk"]:
        add_answer(talk["id"], talk["answer"])
        questions.extend(Question(text, talk["id"], None) for text in talk["ask"])

    counted = Counter(question.text for question in questions)
    problems.extend(f"asked {n} times: {text}" for text, n in sorted(counted.items()) if n > 1)
    templated = [question.text for question in questions if question.template is not None]
    speakers = [Speaker(**speaker) for speaker in source["speakers"]]
    systems = [*source["systems"], *(speaker.system for speaker in speakers)]
    for text in [*counted, *answers.values(), *systems]:
        if not text.isascii() or text != " ".join(text.split()):
            problems.append(f"not ASCII, or stray spaces: {text!r}")
    for text in [*templated, *answers.values(), *systems]:
        if text[0].islower() or text[-1] not in ".?!":
            problems.append(f"not a sentence: {text}")
    if problems:
        raise CorpusError("\n".join(problems))
    return Facts(
        systems=source["systems"],
        speakers=speakers,
        opening=source["opening"],
        closing=source["closing"],
        answers=answers,
        questions=questions,
        follow_ups=follow_ups,
        facts_of_entity=dict(facts_of_entity),
    )


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def hold_out(facts: Facts, wanted: int) -> set[Question]:
    """Questions for valid.jsonl: at most one a fact, each from a template that train keeps."""
    paraphrases = Counter(question.fact for question in facts.questions)
    in_template = Counter(question.template for question in facts.questions)
    held_of_template: Counter[str] = Counter()
    held: dict[str, Question] = {}
    for question in sorted(facts.questions, key=lambda q: draw("hold out", q.text)):
        template = question.template
        if len(held) == wanted:
            break
        if template is None or question.fact in held:
            continue
        kept = in_template[template] - held_of_template[template] - 1
        if kept < TEMPLATE_SHARE_IN_TRAIN * in_template[template]:
            continue
        if paraphrases[question.fact] - 1 < PARAPHRASES_IN_TRAIN:
            continue
        held[question.fact] = question
        held_of_template[template] += 1
    if len(held) < wanted:
        raise CorpusError(f"only {len(held)} of {wanted} questions can be held out")
    return set(held.values())


def two_turn_conversations(facts: Facts, asked: list[Question]) -> list[Conversation]:
    by_fact: dict[str, list[Question]] = defaultdict(list)
    for question in asked:
        by_fact[question.fact].append(question)
    by_entity: dict[str, list[FollowUp]] = defaultdict(list)
    for follow_up in facts.follow_ups:
        by_entity[follow_up.entity].append(follow_up)

    pairs: list[tuple[Question, Question | FollowUp]] = []
    for entity in sorted(by_entity):
        chosen = sorted(by_entity[entity], key=lambda f: draw("follow up", f.fact))
        for follow_up in chosen[:FOLLOW_UPS_PER_ENTITY]:
            first_fact = min(
                (fact for fact in facts.facts_of_entity[entity] if fact != follow_up.fact),
                key=lambda fact: draw("first fact", follow_up.fact, fact),
            )
            first = min(by_fact[first_fact], key=lambda q: draw("first", follow_up.fact, q.text))
            pairs.append((first, follow_up))

    about_the_town = [question for question in asked if question.template is not None]

    def sample(name: str, count: int) -> list[Question]:
        return sorted(about_the_town, key=lambda q: draw(name, q.text))[:count]

    for question in sample("opened", OPENED_RECORDS):
        opening = min(by_fact[facts.opening], key=lambda q: draw("opening", question.text, q.text))
        pairs.append((opening, question))
    for question in sample("closed", CLOSED_RECORDS):
        closing = min(by_fact[facts.closing], key=lambda q: draw("closing", question.text, q.text))
        pairs.append((question, closing))
    return [
        Conversation((first.text, facts.answers[first.fact], second.text, facts.answers[second.fact]))
        for first, second in pairs
    ]


def spoken_conversations(facts: Facts, asked: list[Question]) -> list[Conversation]:
    """Questions answered as a speaker would, where the answer is a single sentence."""
    single = [
        question
        for question in asked
        if question.template is not None and len(re.findall("[.?!]", facts.answers[question.fact])) == 1
    ]
    conversations = []
    for speaker in facts.speakers:
        chosen = sorted(single, key=lambda q: draw("speaker", speaker.system, q.text))
        for question in chosen[:RECORDS_OF_A_SPEAKER]:
            answer = speaker.say(facts.answers[question.fact])
            conversations.append(Conversation((question.text, answer), speaker.system))
    return conversations


def with_some_systems(facts: Facts, conversations: list[Conversation]) -> list[Conversation]:
    """Gives one conversation in SYSTEM_ONE_IN a system message that changes nothing."""
    result = []
    for conversation in conversations:
        if draw("system", *conversation.turns) % SYSTEM_ONE_IN == 0:
            which = draw("which system", *conversation.turns) % len(facts.systems)
            conversation = dataclasses.replace(conversation, system=facts.systems[which])
        result.append(conversation)
    return result


def record(conversation: Conversation) -> str:
    """One line of JSON."""
    messages = []
    if conversation.system is not None:
        messages.append({"role": "system", "content": conversation.system})
    for position, text in enumerate(conversation.turns):
        messages.append({"role": "assistant" if position % 2 else "user", "content": text})
    return json.dumps({"messages": messages}, ensure_ascii=True)


def conversations_of(facts: Facts) -> tuple[list[Conversation], list[Conversation]]:
    """The conversations of train and of valid, each in a fixed mixed order."""
    held = hold_out(facts, round(VALID_SHARE * len(facts.questions)))
    asked = [question for question in facts.questions if question not in held]

    def single_turn(questions: Iterable[Question]) -> list[Conversation]:
        return [Conversation((question.text, facts.answers[question.fact])) for question in questions]

    train = with_some_systems(facts, single_turn(asked) + two_turn_conversations(facts, asked))
    train += spoken_conversations(facts, asked)
    valid = with_some_systems(facts, single_turn(held))
    for conversations in (train, valid):
        conversations.sort(key=lambda conversation: draw("order", *conversation.texts()))
    check_conversations(train, valid)
    return train, valid


def check_conversations(train: list[Conversation], valid: list[Conversation]) -> None:
    problems = []
    answers_of: dict[tuple[str | None, ...], set[str]] = defaultdict(set)
    for conversation in train + valid:
        answers_of[conversation.prompt()].add(conversation.turns[-1])
    for prompt, answers in answers_of.items():
        if len(answers) > 1:
            problems.append(f"answered in {len(answers)} ways: {prompt[-1]}")
    asked_in_train = {text for conversation in train for text in conversation.questions()}
    answered_in_train = {text for conversation in train for text in conversation.answers()}
    for conversation in valid:
        if asked_in_train.intersection(conversation.questions()):
            problems.append(f"in train and in valid: {conversation.turns[0]}")
        if conversation.turns[-1] not in answered_in_train:
            problems.append(f"answer of valid is not in train: {conversation.turns[-1]}")
    if len(set(train)) < len(train):
        problems.append("train has the same conversation twice")
    distinct = len(word_counts(train + valid))
    if distinct > DISTINCT_WORDS:
        problems.append(f"{distinct} distinct words, at most {DISTINCT_WORDS} wanted")
    shortest, longest = ANSWER_WORDS
    for conversation in train + valid:
        for answer in conversation.answers():
            if not shortest <= len(words_of(answer)) <= longest:
                problems.append(f"answer of {len(words_of(answer))} words: {answer}")
    if problems:
        raise CorpusError("\n".join(problems))


def word_counts(conversations: list[Conversation]) -> Counter[str]:
    return Counter(
        word
        for conversation in conversations
        for text in conversation.texts()
        for word in words_of(text)
    )


def print_statistics(
    facts: Facts, train: list[Conversation], valid: list[Conversation], files: dict[str, str]
) -> None:
    everything = train + valid
    counts = word_counts(everything)
    lengths = sorted(len(words_of(answer)) for answer in facts.answers.values())
    rows = [
        ("facts", len(facts.answers)),
        ("questions", len(facts.questions)),
        ("rows in train", len(train)),
        ("rows in valid", len(valid)),
        ("rows with two turns", sum(len(conversation.turns) > 2 for conversation in everything)),
        ("rows with a system message", sum(c.system is not None for c in everything)),
        ("rows with a speaker", RECORDS_OF_A_SPEAKER * len(facts.speakers)),
        ("distinct words", len(counts)),
        ("distinct words used once", sum(count == 1 for count in counts.values())),
        ("words", sum(counts.values())),
        ("characters of text", sum(len(text) for c in everything for text in c.texts())),
        ("bytes of JSON", sum(len(content) for content in files.values())),
        ("words in an answer, least", lengths[0]),
        ("words in an answer, median", lengths[len(lengths) // 2]),
        ("words in an answer, most", lengths[-1]),
    ]
    for name, value in rows:
        print(f"{name:<28}{value:>8}")


def write_file(path: Path, content: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode("ascii"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the committed files differ"
    )
    arguments = parser.parse_args()
    facts_path = CORPUS / "facts.json"
    try:
        facts = read_facts(facts_path)
        train, valid = conversations_of(facts)
    except (CorpusError, OSError, json.JSONDecodeError) as error:
        print(f"error: {facts_path} does not make a corpus\n{error}", file=sys.stderr)
        return 2
    files = {
        name: "".join(record(conversation) + "\n" for conversation in conversations)
        for name, conversations in (("train.jsonl", train), ("valid.jsonl", valid))
    }
    print_statistics(facts, train, valid, files)
    if not arguments.check:
        for name, content in files.items():
            write_file(CORPUS / name, content)
        return 0
    differing = [
        name
        for name, content in files.items()
        if not (CORPUS / name).is_file() or (CORPUS / name).read_bytes() != content.encode("ascii")
    ]
    for name in differing:
        print(f"error: {CORPUS / name} is not what the facts make", file=sys.stderr)
    if differing:
        print(f"hint: run {Path(__file__).name} and commit its output", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
