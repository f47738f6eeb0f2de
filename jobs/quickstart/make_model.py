#!/usr/bin/env python3
"""Pretrain the quickstart base model: a tiny Llama that knows nested lists.

Everything is made here, from a seed: the text, the byte-level BPE tokenizer
and the weights.  The text holds nested list expressions (the notation of
Nangia & Bowman 2018) in many wordings: bare equations, questions, worked
evaluations, other tasks over the same lists, plain sentences.  It never holds
the quickstart's own prompt, nor its <answer> tag: reaching the list value from
that prompt is what the steering adapter has to learn.

The next-token loss counts the answers in full and the rest at a tenth, for the
digits of a random list cannot be learnt.  There is one auxiliary loss besides: a throw-away linear
head reads the value of each closed list off the hidden state of its "]", from
a layer on that grows with the list's height.  It teaches a small model to
compose in few steps, and is not saved.

A second, short stage (--start) goes on from the first with SM drawn more often,
and cuts a third of the documents more finely than the merges would (BPE dropout):
pieces such as "<", which the merges swallow, would never be learnt otherwise.

    python make_model.py --out first
    python make_model.py --out model --start first --steps 450 --lr 1.5e-3
"""
import argparse
import copy
import json
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
OPERATORS = ("MAX", "MIN", "MED", "SM")
SECOND_STAGE_OPERATORS = OPERATORS + ("SM", "SM")  # summing nested values is the hardest
IGNORE = -100


# --- expressions ------------------------------------------------------------

def apply_operator(name, values):
    if name == "MAX":
        return max(values)
    if name == "MIN":
        return min(values)
    if name == "SM":
        return sum(values) % 10
    ranked, half = sorted(values), len(values) // 2
    return ranked[half] if len(ranked) % 2 else (ranked[half - 1] + ranked[half]) // 2


class List:
    """A nested list: operator and arguments (digits or lists)."""

    def __init__(self, operator, arguments):
        self.operator, self.arguments = operator, arguments
        inner = [a for a in arguments if isinstance(a, List)]
        self.value = apply_operator(
            operator, [a.value if isinstance(a, List) else a for a in arguments])
        self.height = 1 + max((a.height for a in inner), default=0)
        self.size = 2 + sum(a.size if isinstance(a, List) else 1 for a in arguments)

    def digits(self):
        for a in self.arguments:
            if isinstance(a, List):
                yield from a.digits()
            else:
                yield a

    def render(self, closings=None, at=0):
        """Text; `closings` collects (offset of "]", value, height)."""
        text = "[" + self.operator
        for a in self.arguments:
            text += " "
            text += a.render(closings, at + len(text)) if isinstance(a, List) else str(a)
        text += " ]"
        if closings is not None:
            closings.append((at + len(text) - 1, self.value, self.height))
        return text

    def reduce(self):
        """The list with every innermost list replaced by its value."""
        if self.height == 1:
            return self.value
        return List(self.operator,
                    [a.reduce() if isinstance(a, List) else a for a in self.arguments])


def random_list(rng, height, nest=0.3, most=4, operators=OPERATORS):
    """A list of at most `height` levels and `most` arguments."""
    count = rng.randint(2, most)
    return List(rng.choice(operators),
                [random_list(rng, height - 1, nest, most, operators)
                 if height > 1 and rng.random() < nest else rng.randrange(10)
                 for _ in range(count)])


def draw_list(rng, height, operators, size=24):
    """A list of exactly `height` levels and at most `size` tokens."""
    while True:
        made = random_list(rng, height, operators=operators)
        if made.height == height and made.size <= size:
            return made


# --- documents --------------------------------------------------------------

class Document:
    """Text, with the spans to be learnt in full and the closings of its lists."""

    def __init__(self):
        self.text, self.spans, self.closings = "", [], []

    def say(self, text):
        self.text += text
        return self

    def show(self, made):
        self.text += made.render(self.closings, len(self.text))
        return self

    def tell(self, text):
        self.spans.append((len(self.text), len(self.text) + len(str(text))))
        self.text += str(text)
        return self


BARE = (("", " = {}\n"), ("", " -> {}\n"), ("", " is {}\n"), ("Q: ", "\nA: {}\n"),
        ("The value of ", " is {}.\n"), ("Value of ", ": {}\n"), ("value(", ") = {}\n"),
        ("Expression: ", "\nValue: {}\n"), ("List: ", "\nResult: {}\n"),
        ("", "\n{}\n"), ("", "\nanswer: {}\n"), ("Evaluate ", ": {}\n"),
        ("Question: what is ", "?\nThe answer is {}.\n"), ("Nested list:\n", "\n= {}\n"),
        ("", "\n<result>{}</result>\n"), ("", "\n<value>{}</value>\n"))

VERBS = ("Evaluate", "Compute", "Find", "Work out", "Give", "Return")
OBJECTS = ("the value of the expression", "the following expression", "this nested list",
           "the value of this list", "the result of the following list", "the nested expression",
           "the final value of the expression", "the list expression below",
           "the numeric value of the following list", "the following nested list")
HEADERS = ("Expression:\n", "List:\n", "Input:\n", "Expression: ", "Nested list:\n", "")
REPLIES = (("Return the {w} inside <{t}>…</{t}>.", "<{t}>{v}</{t}>"),
           ("Write only the {w} inside <{t}>…</{t}>.", "<{t}>{v}</{t}>"),
           ("The final {w} goes inside <{t}>…</{t}>.", "<{t}>{v}</{t}>"),
           ("Return only the {w}.", "{v}"), ("Give the numeric {w} only.", "{v}"),
           ("Write the final {w} after an equals sign.", "= {v}"),
           ("Name the {w}.", "{W}: {v}"), ("Return the {w} as a sentence.", "The {w} is {v}."),
           ("", "{W}: {v}"), ("", "The {w} is {v}."), ("", "{v}"))

# name of the thing asked for, wordings, function
TASKS = (("count", ("Count the digits of the following list.", "How many digits are in the list?"),
          lambda e: len(list(e.digits()))),
         ("depth", ("Find the depth of the nested list.", "How deep is the following expression?"),
          lambda e: e.height),
         ("largest", ("Find the largest digit inside the expression.", "What is the largest digit?"),
          lambda e: max(e.digits())),
         ("smallest", ("Find the smallest digit inside the list.", "What is the smallest digit?"),
          lambda e: min(e.digits())),
         ("first", ("Return the first digit of the following list.", "What is the first digit?"),
          lambda e: next(e.digits())),
         ("last", ("Return the last digit of the nested list.", "What is the last digit?"),
          lambda e: list(e.digits())[-1]),
         ("operator", ("Name the first operator of the expression.", "What is the first operator?"),
          lambda e: e.operator))

SENTENCES = ("The operator MAX returns the largest value of its list.",
             "MIN gives the smallest value inside a list.",
             "MED is the median: the middle value, or the floor of the mean of the middle two.",
             "SM adds the values and returns the final digit only.",
             "An expression is a list of digits and lists.", "A nested list is evaluated first.",
             "Return the number only.", "The following text is inside the list…",
             "An answer is a single digit.", "The answer follows the question.",
             "The result of an expression is numeric.", "Only the last value is final.",
             "Each operator has a value.", "answer: none", "Evaluate from the inside.")


def bare(rng, draw, doc):
    before, after = rng.choice(BARE)
    for _ in range(rng.randint(1, 3)):
        made = draw()
        left, right = after.split("{}")
        doc.say(before).show(made).say(left).tell(str(made.value) + right)


def instruction(rng, draw, doc, thing, wording, function):
    made = draw()
    ask, reply = rng.choice(REPLIES)
    tag = rng.choice((thing, "result", "value", "out"))
    names = dict(w=thing, W=thing.capitalize(), t=tag, v=function(made))
    doc.say(wording)
    if ask:
        doc.say(rng.choice((" ", "\n")) + ask.format(**names))
    doc.say(rng.choice(("\n", "\n\n")) + rng.choice(HEADERS)).show(made).say("\n")
    doc.tell(reply.format(**names) + "\n")


def evaluation(rng, draw, doc):
    thing = rng.choice(("value", "result", "number"))
    wording = f"{rng.choice(VERBS)} {rng.choice(OBJECTS)}."
    instruction(rng, draw, doc, thing, wording, lambda e: e.value)


def other_task(rng, draw, doc):
    thing, wordings, function = rng.choice(TASKS)
    instruction(rng, draw, doc, thing, rng.choice(wordings), function)


def worked(rng, draw, doc):
    made = draw()
    doc.say(rng.choice(("", "Step by step:\n", "Evaluate from the inside:\n"))).show(made)
    while isinstance(made, List):
        made = made.reduce()
        start = len(doc.text)
        doc.say("\n= ")
        doc.show(made) if isinstance(made, List) else doc.say(str(made))
        doc.spans.append((start, len(doc.text)))
    doc.say("\n")


def repeat(rng, draw, doc):
    made = draw()
    doc.say(rng.choice(("Copy the list.\n", "Return the same expression.\n"))).show(made)
    start = len(doc.text)
    doc.say("\n").show(made).say("\n")
    doc.spans.append((start, len(doc.text)))


def prose(rng, draw, doc):
    doc.tell(" ".join(rng.sample(SENTENCES, rng.randint(2, 5))) + "\n")


KINDS = ((bare, 45), (evaluation, 30), (other_task, 10), (worked, 9), (repeat, 2), (prose, 4))


def document(rng, progress):
    """One document; the lists grow higher with `progress` (0..1, above 1: second stage)."""
    weights = (1, 0, 0) if progress < 0.06 else (4, 6, 0) if progress < 0.2 else (2, 4, 6)
    kind = rng.choices([k for k, _ in KINDS], [w for _, w in KINDS])[0]
    doc = Document()
    operators = OPERATORS if progress <= 1 else SECOND_STAGE_OPERATORS
    kind(rng, lambda: draw_list(rng, rng.choices((1, 2, 3), weights)[0], operators), doc)
    return doc


# --- tokenizer --------------------------------------------------------------

def train_tokenizer(rng, vocabulary):
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(
        (document(rng, 1.0).text for _ in range(20000)),
        trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[BOS, EOS], show_progress=False,
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tok.token_to_id(BOS))])
    return tok


# --- batches ----------------------------------------------------------------

def finer(tok):
    """The tokenizer, leaving out every tenth merge at random."""
    made = Tokenizer.from_str(tok.to_str())
    made.model = models.BPE(**bpe_parts(tok), dropout=0.1)
    return made


def bpe_parts(tok):
    held = json.loads(tok.to_str())["model"]
    return {"vocab": held["vocab"], "merges": [tuple(m) for m in held["merges"]]}


def encode(tok, docs, prompt_weight):
    """Each document as (ids, weight of each id as a target, {position: (value, height)})."""
    end = tok.token_to_id(EOS)
    for doc, code in zip(docs, tok.encode_batch([d.text for d in docs])):
        weights, starts = [0.0], {}
        for i, (a, b) in enumerate(code.offsets):
            if i:
                told = any(a < y and b > x for x, y in doc.spans)
                weights.append(1.0 if told else prompt_weight)
                for c in range(a, b):
                    starts[c] = i
        closings = {starts[at]: (value, height) for at, value, height in doc.closings}
        yield code.ids + [end], weights + [prompt_weight], closings


def batches(tok, rng, steps, tokens, prompt_weight, second_stage, chunk=64):
    """`steps` batches of about `tokens` ids, documents of one length together."""
    done, fine = 0, finer(tok)
    while done < steps:
        docs, total = [], 0
        while total < tokens * chunk:
            docs.extend(document(rng, 2.0 if second_stage else done / steps) for _ in range(500))
            total += sum(len(d.text) for d in docs[-500:]) // 2  # two characters an id, about
        cut = len(docs) // 3 if second_stage else 0
        rows = [*encode(fine, docs[:cut], prompt_weight), *encode(tok, docs[cut:], prompt_weight)]
        rows.sort(key=lambda r: len(r[0]))
        made, batch = [], []
        for row in rows:
            if batch and (len(batch) + 1) * len(row[0]) > tokens:
                made.append(batch)
                batch = []
            batch.append(row)
        rng.shuffle(made)
        for batch in made[:steps - done]:
            done += 1
            yield tensors(batch)


def tensors(batch):
    width = max(len(ids) for ids, _, _ in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    weight = torch.zeros(len(batch), width)
    value = torch.full((len(batch), width), IGNORE)
    height = torch.zeros(len(batch), width, dtype=torch.long)
    for i, (row, w, closings) in enumerate(batch):
        ids[i, :len(row)] = torch.tensor(row)
        weight[i, :len(row)] = torch.tensor(w)
        for at, (v, h) in closings.items():
            value[i, at], height[i, at] = v, h
    return ids, weight, value, height


# --- training ---------------------------------------------------------------

def losses(model, probe, ids, weight, value, height):
    out = model.model(input_ids=ids, output_hidden_states=True)
    wanted = weight[:, 1:] > 0
    logits = model.lm_head(out.last_hidden_state[:, :-1][wanted])
    each = F.cross_entropy(logits, ids[:, 1:][wanted], reduction="none")
    main = (each * weight[:, 1:][wanted]).sum() / weight.sum()
    aux, layers = 0.0, len(out.hidden_states) - 1
    for layer in range(3, layers):
        chosen = (height > 0) & (height + 2 <= layer)
        hidden = out.hidden_states[layer][chosen]
        hidden = F.rms_norm(hidden, hidden.shape[-1:])
        aux = aux + F.cross_entropy(probe(hidden), value[chosen]) / (layers - 3)
    return main, aux


def train(model, tok, args, rng):
    probe = torch.nn.Linear(model.config.hidden_size, 10)
    decay = [p for p in model.parameters() if p.dim() > 1] + [probe.weight]
    plain = [p for p in model.parameters() if p.dim() == 1] + [probe.bias]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05},
                                   {"params": plain, "weight_decay": 0.0}],
                                  lr=args.lr, betas=(0.9, 0.98))
    warm = min(100, args.steps // 10)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, warm),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps - warm, args.lr * 0.02)],
        [warm])
    began, seen, sums = time.time(), 0, [0.0, 0.0]
    for step, batch in enumerate(batches(
            tok, rng, args.steps, args.tokens, args.prompt_weight, args.start is not None), 1):
        main, aux = losses(model, probe, *batch)
        (main + args.aux * aux).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        seen += batch[0].numel()
        sums = [sums[0] + main.item(), sums[1] + aux.item()]
        if step % 50 == 0:
            print(f"step {step} loss {sums[0] / 50:.4f} aux {sums[1] / 50:.4f} "
                  f"{seen / (time.time() - began):.0f} ids/s {time.time() - began:.0f} s", flush=True)
            sums = [0.0, 0.0]
        if args.snapshot and step % args.snapshot == 0:
            save(model, tok, args.out)


def save(model, tok, out):
    """The Hugging Face directory, weights rounded to bf16."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=BOS, eos_token=EOS,
                                   clean_up_tokenization_spaces=False,
                                   model_max_length=model.config.max_position_embeddings)
    fast.save_pretrained(out)
    half = LlamaForCausalLM(copy.deepcopy(model.config)).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(out)
    out = Path(out)
    (out / "model.safetensors").chmod(0o644)
    # Names that readers older than transformers 5 look for.
    edit(out / "special_tokens_map.json", bos_token=BOS, eos_token=EOS)
    edit(out / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    edit(out / "config.json", rope_theta=model.config.rope_parameters["rope_theta"])


def edit(path, **changes):
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(held | changes, indent=2, sort_keys=True) + "\n")


def new_model(tok, args):
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=tok.get_vocab_size(), hidden_size=args.hidden, intermediate_size=args.inner,
        num_hidden_layers=args.layers, num_attention_heads=8, num_key_value_heads=4,
        head_dim=args.hidden // 8, max_position_embeddings=512, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True, bos_token_id=tok.token_to_id(BOS),
        eos_token_id=tok.token_to_id(EOS), pad_token_id=None, initializer_range=0.05))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--start", help="directory to go on from: the second stage")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--steps", type=int, default=3400)
    parser.add_argument("--tokens", type=int, default=4096, help="ids in a batch")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--aux", type=float, default=0.5, help="weight of the auxiliary loss")
    parser.add_argument("--prompt-weight", type=float, default=0.1)
    parser.add_argument("--vocabulary", type=int, default=640)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--inner", type=int, default=320)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--snapshot", type=int, default=0, help="save every so many steps")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    if args.start:
        tok = Tokenizer.from_file(str(Path(args.start) / "tokenizer.json"))
        model = LlamaForCausalLM.from_pretrained(args.start, dtype=torch.float32)
    else:
        tok = train_tokenizer(rng, args.vocabulary)
        model = new_model(tok, args)
    print(f"{model.num_parameters()} parameters, {tok.get_vocab_size()} ids", flush=True)
    train(model, tok, args, rng)
    save(model, tok, args.out)


if __name__ == "__main__":
    main()
