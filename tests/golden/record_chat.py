#!/usr/bin/env python3
"""Records what the families' own chat templates make of conversations, for tests/golden/test_chat.c.

    python3 -m venv env && env/bin/pip install -r requirements.txt jinja2==3.1.6
    env/bin/python record_chat.py DIRECTORY

DIRECTORY holds a file NAME.jinja for every NAME of TEMPLATES below: the family's chat_template. They
are not kept here; only what they render is. SOURCES says where the recorded ones came from and what
they were (an index of public repositories; each is a verbatim copy of a published model's template).

Written to chat/:
    <tokenizer>.json      small tokenizers with the families' special tokens and pipelines
    conversations.jsonl   one a line: {"name", "messages", ...}
    rendered.json         template -> {"tokenizer", "source", "sha256", "cases": conversation ->
                            {"text", "prompt"}: with all turns; the prompt for the last answer; or
                            {"error": true}: the template raises
                            for some templates: "ids", "mask": of "text" (up to the last answer), tokenised by HF, and
                            which tokens begin inside what the assistant wrote
                            "prompt_ids": of "prompt"}
"""
import datetime
import hashlib
import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from tokenizers import processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent / "chat"


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


chat_template_utils.datetime = Clock

# --- Templates -----------------------------------------------------------------------------------
# name: tokenizer, bos, eos, before an answer (longest first), what ends it, more arguments

IM = ["<|im_start|>assistant\n"]
LLAMA3 = ["<|start_header_id|>assistant<|end_header_id|>\n\n"]
PHI3 = ["<|assistant|>\n"]
GRANITE = ["<|start_of_role|>assistant<|end_of_role|>"]
TEMPLATES = {
    "llama2": ("sentence", "<s>", "</s>", [" [/INST]"], " </s>", {}),
    "llama3": ("bytes", "<|begin_of_text|>", "<|eot_id|>", LLAMA3, "<|eot_id|>", {}),
    "llama3.1": ("bytes", "<|begin_of_text|>", "<|eot_id|>", LLAMA3, "<|eot_id|>", {}),
    "llama3.2": ("bytes", "<|begin_of_text|>", "<|eot_id|>", LLAMA3, "<|eot_id|>", {}),
    "mistral-v0": ("sentence", "<s>", "</s>", [" [/INST]"], "</s>", {}),
    "mistral-v1": ("sentence", "<s>", "</s>", [" [/INST]"], "</s>", {}),
    "mistral-v3": ("words", "<s>", "</s>", ["[/INST]"], "</s>", {}),
    "mistral-nemo": ("words", "<s>", "</s>", ["[/INST]"], "</s>", {}),
    "mixtral": ("sentence", "<s>", "</s>", [" [/INST]"], "</s>", {}),
    "qwen2": ("bytes", None, "<|im_end|>", IM, "<|im_end|>", {}),
    "qwen2.5": ("bytes", None, "<|im_end|>", IM, "<|im_end|>", {}),
    "qwen3": ("bytes", None, "<|im_end|>", IM, "<|im_end|>", {}),
    "qwen3-nothink": ("bytes", None, "<|im_end|>",
                      [IM[0] + "<think>\n\n</think>\n\n", IM[0]], "<|im_end|>",
                      {"enable_thinking": False}),
    "qwen3-2507": ("bytes", None, "<|im_end|>", IM, "<|im_end|>", {}),
    "gemma": ("words", "<bos>", "<eos>", ["<start_of_turn>model\n"], "<end_of_turn>", {}),
    "gemma2": ("words", "<bos>", "<eos>", ["<start_of_turn>model\n"], "<end_of_turn>", {}),
    "gemma3": ("words", "<bos>", "<eos>", ["<start_of_turn>model\n"], "<end_of_turn>", {}),
    "phi3": ("words", "<s>", "<|endoftext|>", PHI3, "<|end|>", {}),
    "phi3.5": ("words", "<s>", "<|endoftext|>", PHI3, "<|end|>", {}),
    "phi4-mini": ("bytes", "<|endoftext|>", "<|endoftext|>", ["<|assistant|>"], "<|end|>", {}),
    "smollm2": ("bytes", "<|im_start|>", "<|im_end|>", IM, "<|im_end|>", {}),
    "smollm3": ("bytes", None, "<|im_end|>", IM, "<|im_end|>", {}),
    "smollm3-nothink": ("bytes", None, "<|im_end|>", [IM[0] + "<think>\n\n</think>\n"],
                        "<|im_end|>", {"enable_thinking": False}),
    "olmo2": ("plain", "<|endoftext|>", "<|endoftext|>", ["<|assistant|>\n"], "<|endoftext|>", {}),
    "granite3.0": ("bytes", "<|end_of_text|>", "<|end_of_text|>", GRANITE, "<|end_of_text|>", {}),
    "granite3": ("bytes", "<|end_of_text|>", "<|end_of_text|>", GRANITE, "<|end_of_text|>", {}),
}
# Two names, one file.
SAME_FILE = {"qwen3-nothink": "qwen3", "smollm3-nothink": "smollm3", "mistral-v0": "mistral-v0.1"}
SOURCES = {
    "llama2": "guidance-ai/guidance, guidance/chat.py: meta-llama/Llama-2-7b-chat-hf",
    "llama3": "huggingface/trl, trl/chat_templates/llama3.jinja",
    "llama3.1": "huggingface/trl, trl/chat_templates/llama3_1.jinja; the same in llama.cpp's "
                "models/templates",
    "llama3.2": "huggingface/trl, trl/chat_templates/llama3_2.jinja; the same in llama.cpp's "
                "models/templates",
    "mistral-v0": "guidance-ai/guidance, guidance/chat.py (first template of v0.1, v0.2)",
    "mistral-v1": "guidance-ai/guidance, guidance/chat.py: mistralai/Mistral-7B-Instruct-v0.2",
    "mistral-v3": "text index: copies of mistralai/Mistral-7B-Instruct-v0.3's, tool branches left out",
    "mistral-nemo": "ye-NX/llama.cpp, models/templates/mistralai-Mistral-Nemo-Instruct-2407.jinja",
    "mixtral": "that of mistral-v1, which mistralai/Mixtral-8x7B-Instruct-v0.1 shares (taken from "
               "memory, no copy found)",
    "qwen2": "text index: a copy in a training script (Qwen/Qwen2-7B-Instruct)",
    "qwen2.5": "huggingface/trl, trl/chat_templates/qwen2_5.jinja; the same in llama.cpp",
    "qwen3": "huggingface/trl, trl/chat_templates/qwen3.jinja",
    "qwen3-2507": "huggingface/trl, trl/chat_templates/qwen3_instruct_2507.jinja",
    "gemma": "huggingface/trl, trl/chat_templates/gemma.jinja",
    "gemma2": "ye-NX/llama.cpp, models/templates/google-gemma-2-2b-it.jinja",
    "gemma3": "huggingface/trl, trl/chat_templates/gemma3.jinja",
    "phi3": "huggingface/trl, trl/chat_templates/phi3.jinja",
    "phi3.5": "huggingface/trl, trl/chat_templates/phi3_5.jinja; the same in llama.cpp",
    "phi4-mini": "guidance-ai/guidance, guidance/chat.py: microsoft/Phi-4-mini-instruct",
    "smollm2": "text index: HuggingFaceTB/SmolLM2-1.7B-Instruct at revision 31b70e2e869a",
    "smollm3": "EricLBuehler/mistral.rs, chat_templates/smollm3.jinja",
    "olmo2": "allenai/open-instruct, open_instruct/dataset_transformation.py (tulu), with bos_token "
             "in front as OLMo 2 has it",
    "granite3.0": "chujiezheng/chat_templates, chat_templates/granite-3.0-instruct.jinja",
    "granite3": "johnmai-dev/Jinja, Tests/Templates/ChatTemplates.swift (granite3_3)",
}
SOURCES["qwen3-nothink"] = SOURCES["qwen3"]
SOURCES["smollm3-nothink"] = SOURCES["smollm3"]


# --- Conversations -------------------------------------------------------------------------------

def say(*turns):
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[t[0]], "content": t[2:]} for t in turns]


CONVERSATIONS = {
    "one": say("u:How many legs has a spider?", "a:Eight."),
    "system": say("s:You answer in one word.", "u:Is water wet?", "a:Yes"),
    "long": say("s:Be brief, {date} or not.", "u:Name a colour.", "a:Blue.", "u:Another one.",
                "a:Green.", "u:And one more?", "a:Red, or {{red}}."),
    "turns": say("u:Count to three.", "a:1 2 3", "u:Backwards!", "a:3\n2\n1", "u:Thanks.",
                 "a:You are welcome."),
    "spaces": say("s:  Mind the gap.\n\n", "u:\t what is it? \u00a0\u3000", "a: \n It is a gap. \n",
                  "u:\u2028which?\u200b\u0085", "a:\u001cthis one\u2003\ufeff"),
    "newlines": say("u:\n\nfirst\n\n", "a:\n\n\nsecond\n\n\n", "u:\n \nthird", "a:fourth\n"),
    "scripts": say("s:Отвечай по-русски. 日本語も。", "u:Qu'est-ce que c'est\u00a0? e\u0301\u0302 👩‍👩‍👧",
                   "a:שלום עולם — مرحبا 🇩🇪", "u:ไทย हिन्दी", "a:한국어 \U00020000 Ω≈ç√"),
    "code": say("u:Write it in C.", "a:```c\nint main(void) {\n    return 0;  /* \"x\" \\n */\n}\n```\n"),
    "empty_system": say("s:", "u:Anyone there?", "a:No."),
    "specials": say("u:What does <|eot_id|> mean, and <|im_end|>, </s>, <end_of_turn>?",
                    "a:That <|end|> <|im_start|> ends, [INST] begins <|end_of_text|>."),
    "thought": say("u:17 * 3?", "a:<think>\n17 * 3 = 51\n</think>\n\n51", "u:+ 1?",
                   "a:<think>\n51 + 1\n\n</think>\n\n\n52"),
    "half_thought": say("u:a?", "a:no opening</think>answer", "u:b?", "a:<think>x<think>y</think>z"
                        "</think> end"),
    "two_thoughts": say("u:Go.", "a:<think>\nfirst\n</think>\n\none", "a:two"),
    "asked": say("u:First.", "a:Second.", "u:Third?"),
    "question": say("s:S", "u:Alone?"),
    "two_questions": say("u:One.", "u:Two.", "a:Three."),
    "answer_first": say("a:Welcome!", "u:Hello.", "a:Hi."),
    "two_answers": say("u:Go on.", "a:First part.", "a:Second part."),
}
# Markers that a search for what surrounds answers would trip over.
UNMASKED = {"specials"}
# Of templates that only differ in words, one is recorded with ids.
WITH_IDS = {"llama2", "llama3.1", "mistral-v1", "mistral-v3", "qwen2.5", "qwen3", "qwen3-nothink",
            "gemma3", "phi3", "phi4-mini", "smollm3-nothink", "olmo2", "granite3.0"}


# --- Tokenizers ----------------------------------------------------------------------------------

LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TRAINING = [m["content"] for c in CONVERSATIONS.values() for m in c if m["content"]] * 4
TRAINING += ["system user assistant model You are a helpful assistant. Cutting Knowledge Date: "
             "December 2023 Today Date: 26 Jul 2024 [INST] [/INST] <<SYS>> <</SYS>> <|user|>"] * 8


def bytes_model(pre_tokenizer):
    tok = Tokenizer(models.BPE(ignore_merges=False))
    tok.pre_tokenizer = pre_tokenizer
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.train_from_iterator(TRAINING, trainers.BpeTrainer(
        vocab_size=480, show_progress=False, initial_alphabet=pre.ByteLevel.alphabet()))
    return tok


def sentence_model():
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.pre_tokenizer = pre.Metaspace(split=True)
    specials = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    tok.train_from_iterator(TRAINING, trainers.BpeTrainer(
        vocab_size=640, special_tokens=specials, show_progress=False))
    made = json.loads(tok.to_str())
    made["added_tokens"] = made["added_tokens"][:3]
    made["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(made))


def marks(chain):
    return decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                              decoders.Fuse(), *chain])


def make_tokenizers():
    split = pre.Sequence([pre.Split(Regex(LLAMA3_SPLIT), "isolated"),
                          pre.ByteLevel(False, True, False)])
    chat = bytes_model(split)
    chat.normalizer = normalizers.NFC()
    chat.add_special_tokens([
        "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
        "<|python_tag|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<|system|>",
        "<|user|>", "<|assistant|>", "<|end|>", "<|tool|>", "<|start_of_role|>", "<|end_of_role|>",
        "<|end_of_text|>"])
    chat.add_tokens([AddedToken(t, normalized=False) for t in ("<tool_call>", "<think>", "</think>")])
    plain = bytes_model(pre.ByteLevel(False, True, True))
    plain.add_special_tokens(["<|endoftext|>"])
    sentence = sentence_model()
    sentence.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"),
                                                normalizers.Replace(" ", "\u2581")])
    sentence.decoder = marks([decoders.Strip(" ", 1, 0)])
    words = sentence_model()
    words.normalizer = normalizers.Replace(" ", "\u2581")
    words.decoder = marks([])
    words.add_special_tokens([
        "[INST]", "[/INST]", "[PREFIX]", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>",
        "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"])
    return {"bytes": chat, "plain": plain, "sentence": sentence, "words": words}


# --- Recording -----------------------------------------------------------------------------------

def spans_of(text, before, end, n):
    """Where the n answers stand, by what surrounds them."""
    spans, at = [], 0
    for _ in range(n):
        found = min((text.find(b, at), -len(b), b) for b in before if text.find(b, at) >= 0)
        begin = found[0] + len(found[2])
        at = text.index(end, begin) + len(end)
        spans.append((begin, at))
    return spans


def answered(messages):
    n = len(messages)
    while n and messages[n - 1]["role"] != "assistant":
        n -= 1
    return messages[:n]


class Family:
    def __init__(self, name, template, tokenizer):
        kind, bos, eos, self.before, self.end, self.more = TEMPLATES[name]
        self.name = name
        self.tok = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos,
                                           clean_up_tokenization_spaces=False)
        self.tok.chat_template = template

    def apply(self, messages, generation, tokenize=False):
        return self.tok.apply_chat_template(messages, tokenize=tokenize, return_dict=False,
                                            add_generation_prompt=generation, **self.more)

    def text(self, messages):
        """Mistral's later templates leave out the system text of a conversation that ends with an
        answer; trimtab writes what was asked, then the answer."""
        if self.name in ("mistral-v3", "mistral-nemo") and messages[0]["role"] == "system" and \
                messages[-1]["role"] == "assistant":
            answer = messages[-1]["content"]
            if self.name == "mistral-v3":
                answer = " " + answer.strip()
            self.apply(messages, False)  # may raise
            return self.apply(messages[:-1], True) + answer + "</s>", True
        return self.apply(messages, False), False

    def record(self, name, messages):
        if self.name == "qwen3-nothink" and "thought" in name:
            return {"error": True}  # trimtab's own rule: no thoughts where thinking is off
        try:
            case = {"text": self.text(messages)[0]}
        except Exception as e:
            assert "alternate" in str(e) or "not supported" in str(e), e
            return {"error": True}
        done = answered(messages)
        if not done:
            return case
        try:
            case["prompt"] = self.apply(done[:-1], True)
        except Exception:
            pass  # begins with an answer, or answers itself
        if "prompt" in case and self.name in WITH_IDS:
            case["prompt_ids"] = self.apply(done[:-1], True, True)
            assert case["prompt_ids"] == self.tok(case["prompt"], add_special_tokens=False)["input_ids"]
        if self.name not in WITH_IDS:
            return case
        text, patched = self.text(done)
        coded = self.tok(text, add_special_tokens=False, return_offsets_mapping=True)
        if not patched:
            assert self.apply(done, False, True) == coded["input_ids"]
        case["ids"] = coded["input_ids"]
        if name not in UNMASKED:
            n = sum(m["role"] == "assistant" for m in done)
            spans = spans_of(text, self.before, self.end, n)
            case["mask"] = "".join("1" if any(b <= o[0] < e for b, e in spans) else "0"
                                   for o in coded["offset_mapping"])
        return case


def main(directory):
    HERE.mkdir(exist_ok=True)
    tokenizers = make_tokenizers()
    for name, tok in tokenizers.items():
        made = json.loads(tok.to_str())
        (HERE / f"{name}.json").write_text(json.dumps(made, ensure_ascii=False) + "\n")
    with open(HERE / "conversations.jsonl", "w") as out:
        for name, messages in CONVERSATIONS.items():
            out.write(json.dumps({"name": name, "messages": messages}, ensure_ascii=False) + "\n")
    rendered = {}
    for name in TEMPLATES:
        template = (directory / f"{SAME_FILE.get(name, name)}.jinja").read_text()
        family = Family(name, template, tokenizers[TEMPLATES[name][0]])
        rendered[name] = {
            "tokenizer": TEMPLATES[name][0], "source": SOURCES[name],
            "sha256": hashlib.sha256(template.encode()).hexdigest(),
            "cases": {c: family.record(c, m) for c, m in CONVERSATIONS.items()}}
    (HERE / "rendered.json").write_text(json.dumps(rendered, ensure_ascii=False, separators=(",", ":"))
                                        .replace('"},"', '"},\n"').replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
