"""Directories as they might be: what tokenizer_config.json, special_tokens_map.json and config.json
can say about three tokenizers of the families, drawn at random."""
import json
import random

from tokenizers import AddedToken, Tokenizer

from tokenizer_lines import HERE

TEXTS = ["<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<|endoftext|>", "<mask>", "[INST]", "<extra_id_0>",
         "<extra_id_99>", "<|im_end|>", "ab", "\u2581", "<tool_call>", "  "]
BASES = {
    "qwen2": (["GPT2Tokenizer", "Qwen2Tokenizer", "PreTrainedTokenizerFast", "GPT2TokenizerFast", None,
               "LlamaTokenizer", "SomeTokenizer", "TokenizersBackend"],
              ["llama", "qwen2", "qwen3", "granite", "phi3", "gpt2", "olmo2", "smollm3", None]),
    "llama2": (["LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer", "PreTrainedTokenizerFast", None],
               ["llama", "mistral", "mixtral", "gemma", "gemma2", "phi3", "gemma3_text", None]),
    "t5": (["T5Tokenizer", "T5TokenizerFast", "PreTrainedTokenizerFast", None], ["t5", "mt5", "umt5", "llama", None]),
}
FLAGS = ["single_word", "lstrip", "rstrip", "normalized"]


class Case:
    def __init__(self, rng, number):
        self.rng = rng
        self.base = list(BASES)[number % 3]
        self.file = json.loads((HERE / self.base / "tokenizer.json").read_text(encoding="utf-8"))
        classes, model_types = BASES[self.base]
        self.change_file()
        self.config = self.draw_config(rng.choice(classes))
        self.map = self.draw_map() if "added_tokens_decoder" not in self.config and rng.random() < .6 else None
        self.model_type = rng.choice(model_types)

    def some_flags(self, text):
        token = {"content": text}
        token.update({k: self.rng.random() < .3 for k in FLAGS if self.rng.random() < .8})
        if self.rng.random() < .7:
            token["special"] = self.rng.random() < .6
        return token

    def change_file(self):
        rng = self.rng
        tok = Tokenizer.from_str(json.dumps({**self.file, "added_tokens": [], "post_processor": None}))
        for _ in range(rng.choice([0, 1, 2, 4])):
            tok.add_tokens([AddedToken(rng.choice(TEXTS), **{k: rng.random() < .3 for k in [*FLAGS, "special"]})])
        made = json.loads(tok.to_str())
        token = rng.choice(["<s>", "</s>", "<unk>", "<|endoftext|>"])
        self.ids = {t: tok.token_to_id(t) for t in TEXTS}
        if rng.random() < .5 and self.ids.get(token) is not None:
            sides = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
            made["post_processor"] = {
                "type": "TemplateProcessing", "single": sides[::rng.choice([1, -1])],
                "pair": [*sides, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {token: {"id": token, "ids": [self.ids[token]], "tokens": [token]}}}
        if rng.random() < .1:
            made["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
        self.file.update({k: made[k] for k in ("added_tokens", "post_processor", "truncation")})

    def draw_config(self, name):
        rng, config = self.rng, {}
        if name:
            config["tokenizer_class"] = name
        for key in ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "mask_token", "image_token"]:
            chance, text = rng.random(), rng.choice(TEXTS)
            if chance < .5:
                config[key] = text if chance < .3 else None if chance > .4 else {
                    "__type": "AddedToken", **self.some_flags(text)}
        if rng.random() < .6:
            config["added_tokens_decoder"] = {str(i): self.some_flags(t) for t, i in self.ids.items()
                                              if i is not None and rng.random() < .3}
        if rng.random() < .3:
            config[rng.choice(["additional_special_tokens", "extra_special_tokens"])] = rng.choice(
                [[rng.choice(TEXTS), rng.choice(TEXTS)], [], {"boi_token": rng.choice(TEXTS)}])
        for key in ["add_bos_token", "add_eos_token", "add_prefix_space", "legacy", "clean_up_tokenization_spaces"]:
            if rng.random() < .3:
                config[key] = rng.random() < .5
        return config

    def draw_map(self):
        rng, out = self.rng, {}
        for key in ["bos_token", "eos_token", "unk_token"]:
            chance, text = rng.random(), rng.choice(TEXTS)
            if chance < .6:
                out[key] = text if chance < .3 else {k: v for k, v in self.some_flags(text).items() if k != "special"}
        if rng.random() < .3:
            out["additional_special_tokens"] = [rng.choice(TEXTS), rng.choice(TEXTS)]
        return out

    def write(self, where):
        files = {"tokenizer": self.file, "tokenizer_config": self.config, "special_tokens_map": self.map,
                 "config": self.model_type and {"model_type": self.model_type}}
        for name, value in files.items():
            (where / (name + ".json")).unlink(missing_ok=True)
            if value is not None:
                (where / (name + ".json")).write_text(json.dumps(value), encoding="utf-8")

    def ids_are_kept(self, tok):
        """Does every token get the id that the file tells? (trimtab refuses others.)"""
        told = {int(i): t["content"] for i, t in self.config.get("added_tokens_decoder", {}).items()}
        if "added_tokens_decoder" not in self.config:
            told = {t["id"]: t["content"] for t in self.file["added_tokens"]}
        return all(tok.convert_tokens_to_ids(t) == i for i, t in told.items())

    def row(self):
        changed = {k: self.file[k] for k in ("added_tokens", "post_processor", "truncation")}
        model = self.model_type and {"model_type": self.model_type}
        return {"base": self.base, "file": changed, "tokenizer_config": self.config, "special_tokens_map": self.map,
                "config": model}


def cases(n, seed):
    rng = random.Random(seed)
    return [Case(rng, i) for i in range(n)]
