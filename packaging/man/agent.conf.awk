# agent.conf, whose comments document every key, as the manual page agent.conf(5).
BEGIN {
    printf ".TH AGENT.CONF 5 \"%s\" \"ec2ssh-agent %s\" \"File Formats\"\n", date, version
    print ".SH NAME\nagent.conf \\- configuration of ec2ssh-agent\n.SH DESCRIPTION"
    heading = 1
}
function plain(text) { gsub(/\\/, "\\e", text); gsub(/-/, "\\-", text); sub(/^[.']/, "\\\\\\&&", text); return text }
/^\[/ { printf ".SH \"SECTION %s\"\n", toupper($0); words = ""; heading = 0; next }
/^#[a-z_]+ =/ {
    key = value = substr($0, 2)
    sub(/ =.*/, "", key); sub(/^[^=]*= */, "", value)
    printf ".TP\n\\fB%s\\fR (%s)\n", plain(key), value == "" ? "empty" : "default: " plain(value)
    if (words != "") print words
    else print "See above."
    words = ""; next
}
/^# / {
    if (heading) print plain(substr($0, 3))
    else words = words (words == "" ? "" : "\n") plain(substr($0, 3))
}
END { print ".SH SEE ALSO\n.BR ec2ssh-agent (8)" }
