# What zsh makes of a line and a press of the tabulator, in a terminal of its own: completions.zsh DIR
# Prints the lines that are not completed as expected; waits for each as long as it needs (20 s at most).
zmodload zsh/zpty
failed=0
typeset seen
read_until() { # read_until TEXT
    seen=
    integer n=0
    local piece
    while (( n++ < 400 )); do
        while zpty -r -t shell piece; do seen+=$piece; done
        [[ $seen == *$1* ]] && return 0
        sleep 0.05
    done
    return 1
}
complete() { # complete LINE EXPECTED-LINE
    zpty -w -n shell "$1"$'\t'
    read_until "$2" || { print -r -- "zsh: \"$1\" becomes ${(V)seen}, expected \"$2\""; failed=1 }
    zpty -w -n shell $'\x15'
}
zpty shell zsh -f -i
zpty -w shell "PS1=; unset zle_bracketed_paste; fpath=($1 \$fpath); autoload -Uz compinit; compinit -D -u"
zpty -w shell 'bindkey "^I" complete-word; print rea""dy'
read_until ready || { print "zsh: does not start: ${(V)seen}"; exit 1 }
complete 'trimtab trace s' 'trimtab trace summary'
complete 'trimtab trace summary --j' 'trimtab trace summary --json'
complete 'trimtab export --format m' '--format merged'
complete 'trimtab train job.cfg --set train.ste' '--set train.steps='
complete 'trimtab train job.cfg --set memory.activations=k' 'memory.activations=keep'
zpty -d shell
exit $failed
