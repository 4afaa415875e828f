"""Each task's numbers against the protocol written a second time (slow.py), at 124M's shape."""

import json
import math

import numpy as np
import pytest
import torch

from evaluation.slow import STOP_WORDS, Slow, overlap_f1, perplexity, squad_words
from gpt2lab.evaluation.sources import Data
from gpt2lab.evaluation.subject import Subject
from gpt2lab.evaluation.tasks import Settings, chosen
from gpt2lab.model import GPT2, GPT2Config

PASSAGES = [
    "The lamp had gone out again, and nobody had any oil. \u201cThen we sit in the dark,\u201d "
    "said Ann, and so they sat for an hour without a lamp",
    "He asked for bread and she gave him bread, but what he wanted all along was the",
    "They had walked all day. \u201cIs it far?\u201d the boy asked his father. It was not far, "
    "said the father",
    "In the shop were kettles, pans and an old clock that told the time of another country's clock",
    "Nobody in town knew Bartholomew better than old Mary, who had nursed Bartholomew",
]


@pytest.fixture(scope="module")
def slow(reference):
    return Slow(*reference)


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")


def measured(subject, name, folder, **settings):
    (task,) = chosen([name])
    outcome = task.run(subject, Data(folder), Settings(**settings))
    return {s.name: s.measurement(outcome.data) for s in outcome.scores}, outcome


def test_lambada(subject, slow, tmp_path):
    stops = set(STOP_WORDS.split())
    assert len(stops) == 127
    write_lines(tmp_path / "lambada_test.jsonl", [{"text": t} for t in PASSAGES])
    (tmp_path / "lambada_test_plain_text.txt").write_text("\n".join(PASSAGES) + "\n")
    banned = [i for i in range(50257) if slow.tokenizer.decode([i]).strip().lower() in stops]
    for text, prepare in (
        ("openai", lambda t: "\n" + t.replace("\u201c", '"').replace("\u201d", '"')),
        ("std", str),
    ):
        found, _ = measured(subject, f"lambada[{text}]", tmp_path)
        right = {name: [] for name in ("last_token", "last_word", "token_filter", "word_filter")}
        word_nats, token_nats = [], []
        for passage in map(prepare, PASSAGES):
            before, _, word = passage.rpartition(" ")
            each = slow.tokens(before, " " + word)
            word_nats.append(-sum(p for p, _, _ in each))
            token_nats.append(-each[-1][0])
            ids = slow.ids(passage)
            filtered = []
            for (_, _, logits), i in ((each[0], ids[-len(each)]), (each[-1], ids[-1])):
                masked = logits.clone()
                masked[banned] = -torch.inf
                filtered.append(int(masked.argmax()) == i)
            right["last_token"].append(each[-1][1] == 0)
            right["last_word"].append(all(rank == 0 for _, rank, _ in each))
            right["token_filter"].append(filtered[1])
            right["word_filter"].append(filtered[0] and all(r == 0 for _, r, _ in each[1:]))
        name = f"lambada[{text}]"
        for kind, values in (
            ("last_token", right["last_token"]),
            ("last_word", right["last_word"]),
            ("last_token+stopfilter", right["token_filter"]),
            ("last_word+stopfilter", right["word_filter"]),
        ):
            assert found[f"{name}.{kind} accuracy"].value == 100 * np.mean(values)
        assert found[f"{name}.last_word perplexity"].value == pytest.approx(
            math.exp(np.mean(word_nats)), rel=1e-4
        )
        assert found[f"{name}.last_token perplexity"].value == pytest.approx(
            math.exp(np.mean(token_nats)), rel=1e-4
        )


def test_a_filtered_token_is_no_answer(small_tokenizer, tmp_path):
    """`s` is a stop word, and also how many a word ends; a model that is sure of it is wrong."""
    config = GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=48, vocab_size=300)
    model = GPT2(config, seed=0).eval()
    (last,) = small_tokenizer.encode("s")
    with torch.no_grad():
        model.wte.weight.zero_()
        model.wte.weight[last] = 1.0
        model.ln_f.weight.zero_()
        model.ln_f.bias.fill_(1.0)
    write_lines(tmp_path / "lambada_test.jsonl", [{"text": "the qzs"}])
    assert small_tokenizer.encode("the qzs")[-1] == last
    found, _ = measured(Subject(model, small_tokenizer), "lambada[openai]", tmp_path)
    assert found["lambada[openai].last_token accuracy"].value == 100
    assert found["lambada[openai].last_token+stopfilter accuracy"].value == 0


def test_one_sentence_is_a_sentence(tiny_subject, tmp_path):
    (tmp_path / "news.en.heldout-00000-of-00050").write_text("the cat sat .\n")
    found, _ = measured(tiny_subject, "1bw", tmp_path, limit=1)
    assert found["1bw.word perplexity"].protocol.startswith("each line by itself")


def test_lambada_counts_what_is_right(subject, slow, tmp_path):
    """With endings that the model itself would write, accuracies are not 0."""
    texts = []
    for passage in PASSAGES[1::2]:
        before = passage.rpartition(" ")[0]
        logits = slow.logits(slow.ids("\n" + before))[-1]
        for i in logits.argsort(descending=True).tolist():
            word = slow.tokenizer.decode([i])
            if word.startswith(" ") and word[1:].isalpha():
                break
        texts.append(before + word)
    write_lines(tmp_path / "lambada_test.jsonl", [{"text": t} for t in texts])
    found, outcome = measured(subject, "lambada[openai]", tmp_path)
    each = [
        slow.tokens("\n" + t.rpartition(" ")[0], " " + t.rpartition(" ")[2])[0][1] for t in texts
    ]
    expected = 100 * np.mean([rank == 0 for rank in each])
    assert found["lambada[openai].last_word accuracy"].value == expected
    assert [i["greedy"] for i in outcome.items] == [rank == 0 for rank in each]


CBT = [
    (
        [
            "`` Where is the cat ? ''",
            "said Anna ; she did n't like to wait .",
            "Her brother 's answer was -LRB- as ever -RRB- short .",
        ],
        "`` In the @ , '' he said .",
        "garden",
        ["garden", "house", "well", "boot", "tree", "hat", "sea", "box", "barn", "sun"],
        "Where is the cat?\" said Anna; she didn't like to wait. "
        "Her brother's answer was (as ever) short. \"In the",
        '," he said.',
    ),
    (
        ["It was late .", "Mr. Low slept .", "The wind blew , the door banged ."],
        "@ of the house went out .",
        "Lights",
        ["Lights", "Cats", "Men", "Fires", "Dogs", "Boys", "Maids", "Sons", "Guests", "Mice"],
        "It was late. Mr. Low slept. The wind blew, the door banged.",
        " of the house went out.",
    ),
]


def test_childrens_books(subject, slow, tmp_path):
    lines = []
    for sentences, query, answer, options, _, _ in CBT:
        lines += [f"{n} {s}" for n, s in enumerate(sentences, start=1)]
        lines += [f"21 {query.replace('@', 'X' * 5)}\t{answer}\t\t{'|'.join(options)}", ""]
    (tmp_path / "cbtest_NE_valid_2000ex.txt").write_text("\n".join(lines))
    right, picks = [], []
    for *_, answer, options, before, after in CBT:
        context = before if before.startswith("It") else '"' + before
        logp = {o: slow.logp(context, f" {o}{after}") for o in options}
        picks.append(max(options, key=lambda o: logp[o]))
        right.append(picks[-1] == answer)
    found, outcome = measured(subject, "cbt-ne", tmp_path)
    assert [i["chosen"] for i in outcome.items] == picks
    assert found["cbt-ne accuracy"].value == 100 * np.mean(right)
    assert found["cbt-ne accuracy"].settings["round_trip"] == "8/8 lines"


WIKITEXT = """ \n = Bridge = \n \n The bridge , built in 1 @,@ 850 ( or so ) , is 12 @.@ 5 m long .
 It 's a well @-@ known " sight " ; many <unk> visit it . \n \n"""


@pytest.mark.parametrize("stride", [None, 512])
def test_wikitext(subject, slow, tmp_path, stride):
    text = WIKITEXT * 30
    joined = (
        "\n= Bridge =\n\nThe bridge, built in 1,850 (or so), is 12.5 m long.\n"
        'It\'s a well-known "sight"; many <unk> visit it.\n\n'
    ) * 30
    path = tmp_path / "wikitext-2" / "wiki.test.tokens"
    path.parent.mkdir()
    path.write_text(text.replace("long .\n It", "long . \n It"))
    text = path.read_text()
    nats, tokens = slow.stream(joined.removesuffix("\n"), stride or 1024)
    found, _ = measured(subject, "wikitext2", tmp_path, stride=stride)
    words = sum(len(line.split()) + 1 for line in text.removesuffix("\n").split("\n"))
    token, word = found["wikitext2.token perplexity"], found["wikitext2.word perplexity"]
    assert token.value == pytest.approx(perplexity(nats, tokens), rel=1e-4)
    assert word.value == pytest.approx(perplexity(nats, words), rel=1e-4)
    assert found["wikitext2.byte bits"].value == pytest.approx(
        nats / math.log(2) / len(text.encode()), rel=1e-5
    )
    lines = text.count("\n")
    assert token.settings["round_trip"] == f"{lines}/{lines} lines"
    assert token.settings["stride"] == (stride or 1024)


def test_a_text_in_part(subject, slow, tmp_path):
    """The first windows stand for their share of the words."""
    path = tmp_path / "wikitext-103" / "wiki.test.tokens"
    path.parent.mkdir()
    path.write_text(WIKITEXT.replace("long .\n It", "long . \n It") * 60)
    found, _ = measured(subject, "wikitext103", tmp_path, limit=2, detokenizer="raw")
    raw = path.read_text().removesuffix("\n")
    ids = slow.ids(raw)
    nats = 0.0
    for start in (0, 1024):
        before = [50256] if start == 0 else ids[start - 1 : start]
        logp = torch.log_softmax(slow.logits([*before, *ids[start : start + 1023]]), -1)
        nats -= float(logp[torch.arange(1024), ids[start : start + 1024]].sum())
    assert found["wikitext103.token perplexity"].value == pytest.approx(
        perplexity(nats, 2048), rel=1e-4
    )
    words = sum(len(line.split()) + 1 for line in raw.split("\n")) * 2048 / len(ids)
    assert found["wikitext103.word perplexity"].value == pytest.approx(
        perplexity(nats, words), rel=1e-4
    )


def test_penn_treebank_and_sentences(subject, slow, tmp_path):
    lines = [" no it was n't black monday ", " he paid $ N for the firm 's shares "] * 20
    (tmp_path / "ptb.test.txt").write_text("\n".join(lines) + "\n")
    joined = "\n".join(["no it wasn't black monday", "he paid $N for the firm's shares"] * 20)
    nats, _ = slow.stream(joined, 1024)
    found, _ = measured(subject, "ptb", tmp_path)
    words = sum(len(line.split()) + 1 for line in lines)
    assert found["ptb.word perplexity"].value == pytest.approx(perplexity(nats, words), rel=1e-4)

    sentences = ['" It \'s late , " said Ann ( aged 9 ) .', "We don 't know ; who does ?"]
    (tmp_path / "news.en.heldout-00000-of-00050").write_text("\n".join(sentences) + "\n")
    each = [
        slow.stream(t, 1024)
        for t in ('"It\'s late," said Ann (aged 9).', "We don't know; who does?")
    ]
    found, _ = measured(subject, "1bw", tmp_path)
    words = sum(len(s.split()) + 1 for s in sentences)
    nats = sum(n for n, _ in each)
    assert found["1bw.word perplexity"].value == pytest.approx(perplexity(nats, words), rel=1e-4)
    assert found["1bw.token perplexity"].value == pytest.approx(
        perplexity(nats, sum(t for _, t in each)), rel=1e-4
    )


def test_bytes_and_characters(subject, slow, tmp_path):
    markup = "<page>\n  <title>Z\u00fcrich</title>\n  [[Limmat]] &amp; lake\n</page>\n" * 8
    (tmp_path / "enwik8").write_text(markup)
    (tmp_path / "text8").write_text(" anarchism is a word of some history" * 20)
    nats, _ = slow.stream(markup, 1024)
    found, _ = measured(subject, "enwik8", tmp_path)
    assert found["enwik8.byte bits"].value == pytest.approx(
        nats / math.log(2) / len(markup.encode()), rel=1e-5
    )
    text = (tmp_path / "text8").read_text()
    nats, _ = slow.stream(text, 1024)
    found, _ = measured(subject, "text8", tmp_path)
    assert found["text8.character bits"].value == pytest.approx(
        nats / math.log(2) / len(text), rel=1e-5
    )


def test_winograd(subject, slow, tmp_path):
    rows = [
        ("The jug did not fit the shelf because", ["the jug", "the shelf"], "was too tall.", 0),
        ("Ann thanked Eve since", ["Ann", "Eve"], "had helped her.", 1),
        ("We took the younger ones home and praised", ["the older ones", "them"], ".", 1),
    ]
    write_lines(
        tmp_path / "winograd_wsc.jsonl",
        [
            {"context_options": [f"{a} {o}" for o in options], "continuation": b, "gold": g}
            for a, options, b, g in rows
        ],
    )
    partial, full = [], []
    for a, options, b, gold in rows:
        joint = b if b == "." else f" {b}"
        after = [slow.logp(f"{a} {o}", joint) for o in options]
        whole = [slow.logp("", f"{a} {o}{joint}") for o in options]
        partial.append(after.index(max(after)) == gold)
        full.append(whole.index(max(whole)) == gold)
    found, _ = measured(subject, "winograd", tmp_path)
    assert found["winograd.partial accuracy"].value == pytest.approx(100 * np.mean(partial))
    assert found["winograd.full accuracy"].value == pytest.approx(100 * np.mean(full))


def test_coqa(subject, slow, tmp_path):
    story = {
        "source": "wikipedia", "id": "1", "story": "The mill stood by the brook. It was red.",
        "questions": [{"input_text": "Where was the mill?"}, {"input_text": "What colour?"}],
        "answers": [{"input_text": "By the brook"}, {"input_text": "red"}],
        "additional_answers": {
            str(k): [{"input_text": "at the brook"}, {"input_text": "It was red"}] for k in range(3)
        },
    }  # fmt: skip
    other = {
        "source": "race", "id": "2", "story": "Tom ran. Ann slept.",
        "questions": [{"input_text": "Who ran?"}], "answers": [{"input_text": "Tom"}],
    }  # fmt: skip
    prompts = [
        "The mill stood by the brook. It was red.\n\nQ: Where was the mill?\nA:",
        "The mill stood by the brook. It was red.\n\nQ: Where was the mill?\nA: By the brook\n"
        "Q: What colour?\nA:",
        "Tom ran. Ann slept.\n\nQ: Who ran?\nA:",
    ]
    written = [slow.greedy(p, 32)[0] for p in prompts]
    # Some answers hold words that the model writes, so that F1 is not 0.
    story["additional_answers"]["1"][0]["input_text"] = " ".join(written[0].split()[:3]) or "x"
    other["answers"][0]["input_text"] = written[2]
    (tmp_path / "coqa-dev-v1.0.json").write_text(json.dumps({"data": [story, other]}))
    truths = [
        [story["answers"][i]["input_text"]]
        + [story["additional_answers"][str(k)][i]["input_text"] for k in range(3)]
        for i in range(2)
    ]
    f1s = []
    for w, answers in zip(written, truths, strict=False):
        rest = [answers[:i] + answers[i + 1 :] for i in range(len(answers))]
        f1s.append(np.mean([max(overlap_f1(w, a) for a in group) for group in rest]))
    f1s.append(overlap_f1(written[2], written[2]))
    found, outcome = measured(subject, "coqa", tmp_path)
    assert [i["written"] for i in outcome.items] == written
    assert found["coqa F1"].value == pytest.approx(100 * np.mean(f1s))
    assert found["coqa[race] F1"].value == pytest.approx(100 * f1s[2])
    assert found["coqa[wikipedia] F1"].value == pytest.approx(100 * np.mean(f1s[:2]))
    assert found["coqa F1"].value > 10


def test_natural_questions(subject, slow, tmp_path):
    rows = [{"question": f"what is thing {n}", "answer": [f"word {n}", "x"]} for n in range(8)]
    path = tmp_path / "NQ-open.dev.jsonl"
    write_lines(path, rows)
    _, outcome = measured(subject, "natural-questions", tmp_path, shots=2)
    asked = [i["question"] for i in outcome.items]
    assert len(asked) == 6
    shown = [f"Q: {r['question']}?\nA: {r['answer'][0]}" for r in rows]
    left = [s for s in shown if s.rpartition(" word")[0] not in asked]
    # Which of two examples comes first is drawn by the seed.
    orders = ["\n\n".join([*pair, ""]) for pair in (left, left[::-1])]
    written = [[slow.greedy(o + q, 16) for q in asked] for o in orders]
    texts = [i["written"] for i in outcome.items]
    pick = [[t for t, _ in w] for w in written].index(texts)
    logs = [p for _, p in written[pick]]
    assert [i["log_p"] for i in outcome.items] == pytest.approx(logs, abs=2e-3)

    # Answers that the model writes, in other case and with articles, are right.
    for row in rows:
        prompt = f"Q: {row['question']}?\nA:"
        if prompt in asked[:3]:
            row["answer"].append("The " + texts[asked.index(prompt)].upper() + " .")
    write_lines(path, rows)
    found, _ = measured(subject, "natural-questions", tmp_path, shots=2)
    right = [
        any(
            squad_words(t) == squad_words(a)
            for r in rows
            if f"Q: {r['question']}?\nA:" == q
            for a in r["answer"]
        )
        for q, t in zip(asked, texts, strict=True)
    ]
    assert sum(right) >= 3
    assert found["natural-questions exact match"].value == pytest.approx(100 * np.mean(right))
    surest = found["natural-questions.surest exact match"]
    assert surest.n == 1
    assert surest.value == 100 * right[int(np.argmax(logs))]


def test_translation(subject, slow, tmp_path):
    french = ["Le chat dort.", "Il pleut. Je lis.", "La porte est ouverte &amp; vide.", "Oui."]
    english = ["The cat sleeps.", "It rains. I read.", "The door is open &amp; empty.", "Yes."]

    def sgm(texts):
        return "<doc>\n" + "".join(f'<seg id="{n}">{t}</seg>\n' for n, t in enumerate(texts))

    (tmp_path / "newstest2014-fren-src.fr.sgm").write_text(sgm(french))
    (tmp_path / "newstest2014-fren-ref.en.sgm").write_text(sgm(english))
    _, outcome = measured(subject, "wmt14-fr-en", tmp_path, shots=1)
    sources = [t.replace("&amp;", "&") for t in french]
    targets = [t.replace("&amp;", "&") for t in english]
    asked = [i["sentence"] for i in outcome.items]
    (example,) = [n for n, s in enumerate(sources) if s not in asked]
    shown = f"{sources[example]} = {targets[example]}\n"
    texts = [slow.greedy(f"{shown}{s} =", 128)[0] for s in asked]

    def first(text):
        for n, c in enumerate(text):
            if c in ".!?" and (n + 1 == len(text) or text[n + 1] in ' "\u201d\u00bb)\t'):
                end = n + 1
                while end < len(text) and text[end] in '"\u201d\u00bb)':
                    end += 1
                return text[:end]
        return text

    assert [i["written"] for i in outcome.items] == [first(t) for t in texts]
    assert [i["reference"] for i in outcome.items] == [targets[sources.index(s)] for s in asked]


def test_bleu_is_sacrebleus():
    import sacrebleu

    from gpt2lab.evaluation.tasks.translation import bleu, counts

    written = [
        "the cat sat on the mat by the old red door .", "it is raining , so i read a good book",
        "yes", "", "a completely other thing stands here today",
    ]  # fmt: skip
    references = [
        "The cat sat on the mat by the old red gate.", "It is raining, so I read a good book.",
        "Yes.", "No.", "a completely other thing stands there today",
    ]  # fmt: skip
    ours = float(bleu(counts(written, references).sum(0)))
    theirs = sacrebleu.corpus_bleu(written, [references], smooth_method="none").score
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert ours > 20


def test_summaries(subject, slow, tmp_path):
    from rouge_score.rouge_scorer import RougeScorer

    from gpt2lab.generation import Sampling
    from gpt2lab.generation.random import uniform
    from reference_sampling import choose

    rows = [
        {
            "article": "A barge sank on Monday. Nobody was hurt. Its load was coal. Divers came. "
            "The river was closed for a day.",
            "highlights": "A barge sank .\nNobody was hurt .",
        },
        {"article": "Rain fell. It fell again.\nThen snow came.", "highlights": "Much rain ."},
    ]
    write_lines(tmp_path / "cnn_dailymail.jsonl", rows)
    found, outcome = measured(subject, "cnn-dailymail", tmp_path, seed=7)
    rouge = RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)

    def average(summaries):
        each = [
            rouge.score(r["highlights"].replace(" .", "."), "\n".join(s))
            for r, s in zip(rows, summaries, strict=True)
        ]
        return 100 * np.mean([[k[name].fmeasure for name in k] for k in each])

    lead = [["A barge sank on Monday.", "Nobody was hurt.", "Its load was coal."],
            ["Rain fell.", "It fell again.", "Then snow came."]]  # fmt: skip
    assert [i["cnn-dailymail.lead_3"] for i in outcome.items] == lead
    assert found["cnn-dailymail.lead_3 ROUGE average"].value == pytest.approx(average(lead))
    for way, hint in (("", "\nTL;DR:"), (".no_hint", "")):
        for number, row in enumerate(rows):
            seed = np.array([7 + number], np.uint64)

            def pick(logits, step, seed=seed):
                point = uniform(seed, np.array([step]))[0]
                return choose(logits, Sampling(top_k=2), (), (), point)

            *_, (written, _) = slow.write(slow.ids(row["article"] + hint), 100, pick)
            written = [i for i in written if i != 50256]
            text = slow.tokenizer.decode(written)
            summary = outcome.items[number][f"cnn-dailymail{way}"]
            assert len(summary) <= 3
            assert "".join(text.split()).startswith("".join("".join(summary).split()))
        summaries = [i[f"cnn-dailymail{way}"] for i in outcome.items]
        name = f"cnn-dailymail{way} ROUGE average"
        assert found[name].value == pytest.approx(average(summaries))
