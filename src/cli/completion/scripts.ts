// What shells are told so that they ask this program for completions. Each asks for lines as `completionLines` writes them.

import { basename } from 'node:path';
import { SHELLS, type Shell } from '../options/tables/completion.js';

/** The first word of a command line that asks for completions of the words behind it. */
export const ASKS = '--get-completions';

const BASH = `# bash completion of zero-inference: eval "$(zero-inference completion bash)", in ~/.bashrc for all shells
_zero_inference() {
  local current="\${COMP_WORDS[COMP_CWORD]}" line
  [ "$current" = "=" ] && current=
  COMPREPLY=()
  while IFS= read -r line; do
    case "$line" in
      :file | :folder)
        compopt -o filenames
        local action=-f
        [ "$line" = ":folder" ] && action=-d
        while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen "$action" -- "$current")
        ;;
      *)
        COMPREPLY+=("\${line%%$'\\t'*}")
        ;;
    esac
  done < <("\${COMP_WORDS[0]}" ${ASKS} "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _zero_inference zero-inference
`;

const ZSH = `#compdef zero-inference
# zsh completion of zero-inference: eval "$(zero-inference completion zsh)", in ~/.zshrc after compinit for all shells
_zero_inference() {
  local line word
  local -a found
  local -a asked=("\${(@)words[2,CURRENT]}")
  # What is behind "=" is completed alone.
  [[ "\${words[CURRENT]}" == --*=* ]] && compset -P '*='
  for line in "\${(@f)$("\${words[1]}" ${ASKS} "\${asked[@]}" 2>/dev/null)}"; do
    case "$line" in
      '') ;;
      :file) _files ;;
      :folder) _files -/ ;;
      *)
        word="\${line%%$'\\t'*}"
        if [[ "$line" == *$'\\t'* ]]; then found+=("\${word//:/\\\\:}:\${line#*$'\\t'}"); else found+=("\${word//:/\\\\:}"); fi
        ;;
    esac
  done
  (( \${#found} )) && _describe 'zero-inference' found
}
if [[ "\${zsh_eval_context[-1]}" == "loadautofunc" ]]; then _zero_inference "$@"; else compdef _zero_inference zero-inference; fi
`;

const FISH = `# fish completion of zero-inference: zero-inference completion fish > ~/.config/fish/completions/zero-inference.fish
function __zero_inference
  set -l words (commandline -opc) (commandline -ct)
  set -l before (string match -r '^--[^=]+=' -- (commandline -ct))
  for line in ($words[1] ${ASKS} $words[2..-1] 2>/dev/null)
    switch $line
      case :file
        __fish_complete_path (commandline -ct)
      case :folder
        __fish_complete_directories (commandline -ct)
      case '*'
        echo "$before$line"
    end
  end
end
complete -c zero-inference -f -a '(__zero_inference)'
`;

const SCRIPTS: Readonly<Record<Shell, string>> = { bash: BASH, zsh: ZSH, fish: FISH };

export function completionScript(shell: Shell): string {
  return SCRIPTS[shell];
}

/** The shell that the user works with; bash where the environment does not say. */
export function userShell(environment: Readonly<Record<string, string | undefined>>): Shell {
  const name = basename(environment.SHELL ?? '');
  return SHELLS.find((shell) => shell === name) ?? 'bash';
}
