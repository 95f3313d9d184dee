# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_kissdb_global_optspecs
    string join \n json color= h/help V/version
end

function __fish_kissdb_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_kissdb_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_kissdb_using_subcommand
    set -l cmd (__fish_kissdb_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c kissdb -n "__fish_kissdb_needs_command" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_needs_command" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_needs_command" -s V -l version -d 'Print version'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "info" -d 'Show what a database is, what is in it, and who has it open'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "list" -d 'List keys and values, ordered by key'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "get" -d 'Print the value of a key'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "put" -d 'Set the value of a key; it is durable when the command ends'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "delete" -d 'Delete keys'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "dump" -d 'Write all keys and values as JSON lines, ordered by key'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "load" -d 'Put the keys and values of a dump into a database: all of them or none'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "check" -d 'Look for everything that is not as it should be; writes nothing, also works on a file in use'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "repair" -d 'Mend a damaged database, keep a copy of it, and tell what was lost'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "diff" -d 'Compare two databases; status 1 if they differ'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "copy" -d 'Copy a database as it is at one moment, while others write'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "compact" -d 'Rewrite a database without deleted records and unused space'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "create" -d 'Make an empty database'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "map" -d 'Draw which parts of the file are in use for what, and how long the chains are'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "shm" -d 'Show the shared objects in /dev/shm: whose, who uses them, which locks are held'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "completions" -d 'Print completions for a shell'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "man" -d 'Write the man pages to a directory'
complete -c kissdb -n "__fish_kissdb_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c kissdb -n "__fish_kissdb_using_subcommand info" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand info" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand info" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand list" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand list" -l hex -d 'Values in hexadecimal'
complete -c kissdb -n "__fish_kissdb_using_subcommand list" -s k -l keys -d 'Only the keys'
complete -c kissdb -n "__fish_kissdb_using_subcommand list" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand get" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand get" -l hex -d 'The value in hexadecimal'
complete -c kissdb -n "__fish_kissdb_using_subcommand get" -l raw -d 'The bytes of the value and nothing else'
complete -c kissdb -n "__fish_kissdb_using_subcommand get" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand get" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand put" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand put" -l hex -d 'The value is given in hexadecimal'
complete -c kissdb -n "__fish_kissdb_using_subcommand put" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand put" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand delete" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand delete" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand delete" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand dump" -s o -l output -d 'Write to this file instead of standard output' -r -F
complete -c kissdb -n "__fish_kissdb_using_subcommand dump" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand dump" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand dump" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand load" -l kind -d 'Sizes of a new database, where the dump does not tell them' -r
complete -c kissdb -n "__fish_kissdb_using_subcommand load" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand load" -l replace -d 'Delete all keys that are not in the dump'
complete -c kissdb -n "__fish_kissdb_using_subcommand load" -l in-place -d 'Change the keys one after the other, also while others have the database open'
complete -c kissdb -n "__fish_kissdb_using_subcommand load" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand load" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand check" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand check" -s n -l notes -d 'A line for each note, too'
complete -c kissdb -n "__fish_kissdb_using_subcommand check" -s q -l quiet -d 'Nothing but the exit status'
complete -c kissdb -n "__fish_kissdb_using_subcommand check" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand repair" -s o -l output -d 'Write the repaired database to this new file and leave the damaged one as it is' -r -F
complete -c kissdb -n "__fish_kissdb_using_subcommand repair" -l kind -d 'The sizes, where the header is damaged and the records do not show them' -r
complete -c kissdb -n "__fish_kissdb_using_subcommand repair" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand repair" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand repair" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand diff" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand diff" -l hex -d 'Values in hexadecimal'
complete -c kissdb -n "__fish_kissdb_using_subcommand diff" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand copy" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand copy" -s f -l force -d 'Replace a file that is there already'
complete -c kissdb -n "__fish_kissdb_using_subcommand copy" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand copy" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand compact" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand compact" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand compact" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand create" -l kind -d 'settings (510/128/8028), resources (510/64/212), or SLOTS/KEY/VALUE' -r
complete -c kissdb -n "__fish_kissdb_using_subcommand create" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand create" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand map" -l svg -d 'Write the picture to this SVG file' -r -F
complete -c kissdb -n "__fish_kissdb_using_subcommand map" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand map" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand map" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand shm" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand shm" -l clean -d 'Remove what no living process uses'
complete -c kissdb -n "__fish_kissdb_using_subcommand shm" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand shm" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand completions" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand completions" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand man" -l color -d 'Whether to use colours' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t''
never\t''"
complete -c kissdb -n "__fish_kissdb_using_subcommand man" -l json -d 'Print JSON: one object, or one object a line where there are many'
complete -c kissdb -n "__fish_kissdb_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "info" -d 'Show what a database is, what is in it, and who has it open'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "list" -d 'List keys and values, ordered by key'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "get" -d 'Print the value of a key'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "put" -d 'Set the value of a key; it is durable when the command ends'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "delete" -d 'Delete keys'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "dump" -d 'Write all keys and values as JSON lines, ordered by key'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "load" -d 'Put the keys and values of a dump into a database: all of them or none'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "check" -d 'Look for everything that is not as it should be; writes nothing, also works on a file in use'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "repair" -d 'Mend a damaged database, keep a copy of it, and tell what was lost'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "diff" -d 'Compare two databases; status 1 if they differ'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "copy" -d 'Copy a database as it is at one moment, while others write'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "compact" -d 'Rewrite a database without deleted records and unused space'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "create" -d 'Make an empty database'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "map" -d 'Draw which parts of the file are in use for what, and how long the chains are'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "shm" -d 'Show the shared objects in /dev/shm: whose, who uses them, which locks are held'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "completions" -d 'Print completions for a shell'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "man" -d 'Write the man pages to a directory'
complete -c kissdb -n "__fish_kissdb_using_subcommand help; and not __fish_seen_subcommand_from info list get put delete dump load check repair diff copy compact create map shm completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
