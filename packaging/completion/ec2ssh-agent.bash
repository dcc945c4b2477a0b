# bash completion for ec2ssh-agent(8)

_ec2ssh_agent() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command="" word number
    case $previous in
        --config | --iptables-save | --ip6tables-save | --nft-json | --hosts-allow | --hosts-deny)
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
            ;;
        --root)
            mapfile -t COMPREPLY < <(compgen -d -- "$current")
            return
            ;;
        --interface)
            mapfile -t COMPREPLY < <(compgen -W "$(command ls /sys/class/net)" -- "$current")
            return
            ;;
    esac
    for ((number = 1; number < COMP_CWORD; number++)); do
        word=${COMP_WORDS[number]}
        case $word in
            --config | --root) number=$((number + 1)) ;;
            -*) ;;
            *)
                command=$word
                break
                ;;
        esac
    done
    case $command in
        "") word="--config --root --version run status check repair undo reach explain history pause resume \
            report config user-data purge prepare-image" ;;
        status) word="--watch --json" ;;
        repair) word="--dry-run --allow-disable --json" ;;
        undo) word="--list --json" ;;
        reach) word="--port --from --to --interface --iptables-save --ip6tables-save --nft-json --hosts-allow \
            --hosts-deny --json" ;;
        explain) word="timeout refused --json" ;;
        report) word="--test --drain --json" ;;
        config) word="show check --json" ;;
        purge) word="--undo --json" ;;
        *) word="--json" ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$word --help" -- "$current")
}
complete -F _ec2ssh_agent ec2ssh-agent
