//! What a device's shell is asked to do: POSIX scripts with quoted arguments.
//!
//! A session has a folder of its own on the device. A keeper there (started by [`open`]) removes the folder once nobody
//! has asked for anything for a while: nothing stays behind when this machine never comes back.

/// An argument for a shell: it takes everything between the quotes as it is.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Says that a script has come to its end, with the exit code of what it ran.
pub(super) const END: &str = "\nsecateurs-end ";

/// Seconds between two looks of the keeper.
const TICK: u64 = 2;

/// The file that marks a session's folder as ours; it holds the folder's name.
const MARK: &str = ".secateurs-session";

/// The file that marks the folder of all sessions as made by us.
const MADE: &str = ".secateurs-folder";

/// A function of the shell: whether a folder's name is one that we give, and our mark lies in it. Nothing else is ever
/// removed: the folder of a profile may be one in which the user keeps other things.
fn ours() -> String {
    format!(
        r#"ours() {{
    rest=${{1#s-}}; a=${{rest%%-*}}; rest=${{rest#*-}}; b=${{rest%%-*}}; c=${{rest#*-}}
    [ "$1" = "s-$a-$b-$c" ] && [ -n "$a" ] && [ -n "$b" ] && [ -n "$c" ] || return 1
    case "$a$c" in *[!0-9]*) return 1 ;; esac
    case "$b" in *[!0-9a-f]*) return 1 ;; esac
    [ ! -L "$1" ] && [ -d "$1" ] && [ ! -L "$1/{MARK}" ] && [ "$(cat "$1/{MARK}" 2>/dev/null)" = "$1" ]
}}
empty() {{
    [ -f {MADE} ] || return 0
    rm -f {MADE}; place=$(pwd); cd ..
    rmdir "$place" 2>/dev/null || : > "$place/{MADE}"
}}
"#
    )
}

/// Makes the session's folder, renews its lease, and starts the keeper unless one is running. The keeper removes the
/// folder when for `lease` seconds nobody has renewed the lease and no arriving file has grown.
///
/// Folders of other sessions without a keeper, from before a reboot, are removed on the way: those that carry our mark
/// and a whole name of ours. The folder of all sessions goes when it is empty and was made here.
pub(super) fn open(folder: &str, session: &str, lease: u64) -> String {
    let (folder, session, looks, ours) = (quote(folder), quote(session), lease.div_ceil(TICK), ours());
    format!(
        r#"set -e
{ours}home=$(pwd)
if [ ! -d {folder} ]; then mkdir -p {folder}; : > {folder}/{MADE}; fi
cd {folder}
for other in s-*; do
    if [ "$other" != {session} ] && ours "$other" && ! kill -0 "$(cat "$other/keeper" 2>/dev/null || echo none)" 2>/dev/null; then
        rm -rf "$other"
    fi
done
mkdir -p {session}; cd {session}
echo "$$ $(date +%s)" > signed
if [ {looks} -gt 0 ] && ! kill -0 "$(cat keeper 2>/dev/null || echo none)" 2>/dev/null; then
    (
        trap '' HUP; set +e
        # First the keeper, then the mark: what has a mark and no keeper was left behind.
        sh -c 'echo "$PPID"' > keeper; echo {session} > {MARK}
        last= idle=0
        while [ -e signed ] && [ $idle -lt {looks} ]; do
            sleep {TICK}
            now=$(cat signed; ls -l in.* 2>/dev/null)
            if [ "$now" = "$last" ]; then idle=$((idle + 1)); else last=$now idle=0; fi
        done
        cd "$home"; cd {folder} || exit
        if ours {session}; then rm -rf {session}; fi
        empty
    ) >/dev/null 2>&1 </dev/null &
    echo $! > keeper; echo {session} > {MARK}
fi
cd "$home"
"#
    )
}

/// Goes to the session's folder and renews its lease, or ends with code 250 if the folder does not exist any more (the
/// keeper removed it, or the device was set up anew).
fn enter(folder: &str, session: &str) -> String {
    format!(
        "cd {} 2>/dev/null && cd {} 2>/dev/null || exit 250\necho \"$$ $(date +%s)\" > signed\n",
        quote(folder),
        quote(session)
    )
}

/// Prints which of some files are missing, one name a line.
pub(super) fn missing(folder: &str, session: &str, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| quote(name)).collect();
    format!("{}for f in {}; do [ -e \"$f\" ] || echo \"$f\"; done\n", enter(folder, session), names.join(" "))
}

/// Takes a file from standard input. It gets its name, the hash of its content, only when it is whole.
pub(super) fn receive(folder: &str, session: &str, name: &str) -> String {
    let name = quote(name);
    format!(
        r#"{}cat > in.$$ || exit 251
if command -v sha256sum >/dev/null 2>&1; then
    case "$(sha256sum < in.$$)" in {name}*) ;; *) rm -f in.$$; exit 251 ;; esac
fi
chmod 700 in.$$ && mv in.$$ {name}
"#,
        enter(folder, session)
    )
}

/// Runs a command line. Somebody must send a byte every few seconds on standard input: after `silence` seconds without
/// one, or at its end, the program is killed.
pub(super) fn run(folder: &str, session: &str, line: &str, silence: u64) -> String {
    format!(
        r#"{}exec 3<&0
{line} </dev/null &
program=$!
(
    while [ -n "$(timeout {silence} head -c 1 <&3)" ]; do echo "$$ $(date +%s)" > signed; done
    kill $program 2>/dev/null; sleep 1; kill -9 $program 2>/dev/null
) >/dev/null 2>&1 &
watch=$!
exec 3<&-
wait $program
code=$?
kill $watch 2>/dev/null
printf '{}%d\n' $code
"#,
        enter(folder, session),
        END.replace('\n', "\\n"),
    )
}

/// Removes the session. The keeper ends by itself when it finds nothing signed.
pub(super) fn close(folder: &str, session: &str) -> String {
    let (folder, session, ours) = (quote(folder), quote(session), ours());
    format!("{ours}cd {folder} 2>/dev/null || exit 0\nif ours {session}; then rm -rf {session}; fi\nempty\nexit 0\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn any_word_survives_the_shell() {
        for text in ["", "a b", "it's", "$HOME `id` \"x\" \\", "a\nb", "-n", "ü;&|"] {
            let output = Command::new("sh").args(["-c", &format!("printf %s {}", quote(text))]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), text);
        }
    }
}
