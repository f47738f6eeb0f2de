
# Words that begin with $1 among those of $2.
_trimtab_offer() {
    mapfile -t COMPREPLY < <(compgen -W "$2" -- "$1")
}

# What an option's argument or a command's word may be: a kind, or the words themselves.
_trimtab_offer_value() { # CURRENT KIND
    case $2 in
    FILE)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$1")
        ;;
    DIR)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$1")
        ;;
    KEY)
        compopt -o nospace 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -S = -W "$_trimtab_keys" -- "$1")
        ;;
    NOTHING | "") COMPREPLY=() ;;
    *) _trimtab_offer "$1" "$2" ;;
    esac
}

# bash cuts --name=value and key=value into three words where = is one of COMP_WORDBREAKS.
_trimtab() {
    local current=${COMP_WORDS[COMP_CWORD]} at=$((COMP_CWORD - 1)) assigned= name subs
    [ "$current" = = ] && current= && at=$COMP_CWORD
    if [ "${COMP_WORDS[at]}" = = ]; then
        assigned=yes
        at=$((at - 1))
    fi
    local before=${COMP_WORDS[at]}
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        _trimtab_offer "$current" "$_trimtab_commands --help --version"
        return
    fi
    name=${COMP_WORDS[1]}
    if [ "$name" = help ]; then
        [ "$COMP_CWORD" = 2 ] && _trimtab_offer "$current" "$_trimtab_commands"
        return
    fi
    subs=$(_trimtab_subs "$name")
    if [ -n "$subs" ]; then
        if [ "$COMP_CWORD" = 2 ]; then
            _trimtab_offer "$current" "$subs --help"
            return
        fi
        name="$name ${COMP_WORDS[2]}"
    fi
    if [ -n "$assigned" ] && [[ $before != --* ]]; then
        # --set group.key=value
        _trimtab_offer_value "$current" "$(_trimtab_key_values "$before")"
    elif [[ $current == -* ]]; then
        _trimtab_offer "$current" "$(_trimtab_options "$name")"
        [[ ${#COMPREPLY[@]} = 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    elif [[ $before == --* && -n $(_trimtab_values "$name $before") ]] &&
        [[ -n $assigned || " $(_trimtab_options "$name") " != *" $before= "* ]]; then
        _trimtab_offer_value "$current" "$(_trimtab_values "$name $before")"
    else
        _trimtab_offer_value "$current" "$(_trimtab_values "$name")"
    fi
}
complete -F _trimtab trimtab
