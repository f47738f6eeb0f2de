#!/usr/bin/env bash
# Completions as the shells make them: bash's by compgen's own variables, fish's by complete -C, zsh's
# in a terminal. tests/packaging/completions.sh BUILD
set -u
manual=$(cd "$1/manual" && pwd) || exit 1
trimtab=${manual%/*}/trimtab
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
mkdir runs && touch job.cfg adapter.safetensors
failed=0
source "$manual/trimtab.bash" || exit 1
fail() {
    echo "FAIL: $*"
    failed=1
}
# What bash would offer for a command line, cut into words as bash does with = in COMP_WORDBREAKS.
offer() { # offer WORD ...; the last one is being typed
    COMP_WORDS=()
    local word
    for word in "$@"; do
        if [[ $word == *=* ]]; then
            COMP_WORDS+=("${word%%=*}" =)
            [ -z "${word#*=}" ] || COMP_WORDS+=("${word#*=}")
        else
            COMP_WORDS+=("$word")
        fi
    done
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    _trimtab
    printf '%s\n' "${COMPREPLY[@]}" | sort | paste -sd ' '
}
expect() { # expect WORDS-TO-BE-OFFERED COMMAND-LINE ...
    local expected=$1 got
    shift
    got=$(offer "$@")
    [ "$got" = "$expected" ] || fail "bash: \"$*\" offers \"$got\", expected \"$expected\""
}
expect "table trace train" trimtab t
expect "train" trimtab help trai
expect "summary" trimtab trace s
expect "--json" trimtab trace summary --j
expect "--help --quiet --resume= --set" trimtab train --
expect "auto latest previous" trimtab train job.cfg --resume=
expect "previous" trimtab train job.cfg --resume=p
expect "adapter.safetensors job.cfg runs" trimtab train --resume ""
expect "runs" trimtab table ""
expect "adapter.safetensors" trimtab eval --adapter ad
expect "merged" trimtab export --format m
expect "merged" trimtab export --format=m
expect "train.steps=" trimtab train job.cfg --set train.ste
expect "keep" trimtab train job.cfg --set memory.activations=k
expect "" trimtab check --ranks ""
expect "" trimtab nonsense ""

# Every command and every option that help tells of, and every bench.
for command in $("$trimtab" --help | sed -n 's/^  \([a-z]*\) .*/\1/p' | grep -v '^trimtab$'); do
    [ -z "$(_trimtab_subs "$command")" ] || continue
    options=$("$trimtab" "$command" --help | grep -o '^  --[a-z0-9-]*' | tr -d ' ' | sort | paste -sd ' ')
    offered=$(_trimtab_options "$command" | tr ' ' '\n' | sed 's/=$//' | grep -v '^--help$' | sort | paste -sd ' ')
    [ "$options" = "$offered" ] || fail "$command: help has $options; completion $offered"
done
benches=$("$trimtab" bench --help | sed -n '/^Benches/,$s/^\([a-z]\+\) .*/\1/p' | paste -sd ' ')
[ "$benches" = "$(_trimtab_values bench)" ] || fail "benches: $benches"

if command -v fish >/dev/null; then
    fish_offer() { fish -N -c "source '$manual/trimtab.fish'; complete -C '$1'" | cut -f 1 | paste -sd ' '; }
    fish_expect() {
        local got
        got=$(fish_offer "$2")
        [ "$got" = "$1" ] || fail "fish: \"$2\" offers \"$got\", expected \"$1\""
    }
    fish_expect "table trace train" "trimtab t"
    fish_expect "summary" "trimtab trace s"
    fish_expect "--json" "trimtab trace summary --j"
    fish_expect "merged" "trimtab export --format m"
    fish_expect "train.steps=" "trimtab train job.cfg --set train.ste"
    fish_expect "runs/" "trimtab table r"
fi
if command -v zsh >/dev/null; then
    zsh -f "$here/completions.zsh" "$manual" || failed=1
fi
[ $failed = 0 ] && echo "completions offer what help tells of"
exit $failed
