# Types lines into a shell that runs on a terminal, and prints what it makes of each: keys.zsh SHELL SETUP LINE...
# In place of cilmark a function tells its arguments. \t is the key that completes.
zmodload zsh/zpty
shell=$1 setup=$2
shift 2
zpty shell $shell
zpty -w shell "PS1= PS2=; cilmark() { printf 'GOT'; printf '<%s>' \"\$@\"; echo END; }; $setup; echo SET''UP"
zpty -r shell said '*SETUP*'
for line; do
    zpty -w -n shell "${(g::)line}"$'\n'
    zpty -r shell said '*GOT<*>END*'
    said=${said##*GOT}
    print -r -- "${said%%END*}"
done
zpty -d shell
