#!/usr/bin/perl
# The guest's end of the lab's command channel: a virtio-serial port named "lab". Perl, because perl-base is essential
# in every Debian; one process, because a command must get through while another one hangs.
#
# From the host, a header line, then LEN bytes:          To the host:
#   RUN ID LEN SHELL-OPTIONS   run a script               O ID LEN + bytes   standard output
#   PUT ID LEN MODE PATH       write a file               E ID LEN + bytes   standard error
#   STIR ID LEN SEC NSEC       set the clock, add entropy X ID STATUS        ended
#   KILL ID 0                  kill a script's group
#   PING ID 0                  are you there              P ID 0             yes
use strict;
use warnings;
use POSIX qw(:sys_wait_h setsid dup2 _exit);
use Fcntl;

$ENV{PATH} = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
$ENV{HOME} = '/root';
$ENV{LANG} = 'C.UTF-8';
# A script must look like a shell's, not like a unit's: the agent chooses between journal and stderr by these.
delete @ENV{qw(JOURNAL_STREAM INVOCATION_ID SYSTEMD_EXEC_PID NOTIFY_SOCKET MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE)};

sub port {
    for my $file (glob '/sys/class/virtio-ports/*/name') {
        open my $in, '<', $file or next;
        my $name = <$in> // '';
        chomp $name;
        return "/dev/$1" if $name eq 'lab' && $file =~ m{/([^/]+)/name$};
    }
    return;
}

my $device;
select undef, undef, undef, 0.1 until defined($device = port()) && -e $device;
sysopen my $port, $device, O_RDWR or die "open $device: $!";

my ($input, %jobs, %by_pid) = ('');

sub put {
    my $bytes = join '', @_;
    while (length $bytes) {
        my $done = syswrite $port, $bytes;
        if (defined $done) { substr $bytes, 0, $done, ''; }
        else { select undef, undef, undef, 0.02; }    # nobody listens: a host will come again
    }
}

sub start {
    my ($id, $script, $options) = @_;
    mkdir '/run/lab', 0700;
    my $file = "/run/lab/$id.sh";
    open my $out, '>', $file or return put("E $id ", length "$file: $!\n", "\n$file: $!\n", "X $id 126\n");
    print $out $script;
    close $out;
    pipe my $out_r, my $out_w;
    pipe my $err_r, my $err_w;
    my $pid = fork;
    if (!$pid) {
        setsid();
        chdir '/';
        open my $null, '<', '/dev/null';
        dup2(fileno $null,  0);
        dup2(fileno $out_w, 1);
        dup2(fileno $err_w, 2);
        POSIX::close($_) for 3 .. 255;
        exec '/bin/bash', split(/,/, $options), $file or _exit(127);
    }
    fcntl $_, F_SETFL, O_NONBLOCK for $out_r, $err_r;
    $jobs{$id} = { pid => $pid, O => $out_r, E => $err_r, file => $file };
    $by_pid{$pid} = $id;
}

sub drain {
    my ($id, $stream) = @_;
    my $from = $jobs{$id}{$stream} or return;
    while (1) {
        my $got = sysread $from, my $bytes, 65536;
        return if !defined $got;
        if (!$got) { delete $jobs{$id}{$stream}; return; }
        put("$stream $id $got\n", $bytes);
    }
}

sub reap {
    while ((my $pid = waitpid -1, WNOHANG) > 0) {
        my $status = $?;
        my $id = delete $by_pid{$pid} // next;
        # What it left running may hold the pipes for ever: take what is there and be done.
        drain($id, $_) for 'O', 'E';
        unlink $jobs{$id}{file};
        delete $jobs{$id};
        put("X $id ", $status & 127 ? 128 + ($status & 127) : $status >> 8, "\n");
    }
}

sub write_file {
    my ($id, $mode, $path, $bytes) = @_;
    my $dir = $path =~ m{^(.*)/[^/]+$} ? $1 : '';
    my $made = '';
    for my $part (split m{/}, $dir) { $made .= "$part/"; mkdir $made; }
    my $error = '';
    if (sysopen my $out, "$path.lab-new", O_WRONLY | O_CREAT | O_TRUNC) {
        my $at = 0;
        while ($at < length $bytes) {
            my $done = syswrite $out, $bytes, 1 << 20, $at;
            if (!defined $done) { $error = "write $path: $!\n"; last; }
            $at += $done;
        }
        chmod oct $mode, "$path.lab-new";
        close $out or $error ||= "close $path: $!\n";
        $error ||= "rename $path: $!\n" unless rename "$path.lab-new", $path;
    } else {
        $error = "create $path: $!\n";
    }
    put("E $id ", length $error, "\n$error") if $error;
    put("X $id ", $error ? 1 : 0, "\n");
}

# After a restore the clock stands where it was saved, and every VM has the same random numbers to come.
sub stir {
    my ($id, $entropy, $sec, $nsec) = @_;
    syscall 227, 0, pack 'q q', $sec, $nsec;    # clock_settime(CLOCK_REALTIME)
    if (sysopen my $random, '/dev/urandom', O_RDWR) {
        syswrite $random, $entropy;
        ioctl $random, 0x5207, 0;               # RNDRESEEDCRNG
    }
    put("X $id 0\n");
}

sub command {
    my ($verb, $id, $bytes, @rest) = @_;
    if    ($verb eq 'RUN')  { start($id, $bytes, $rest[0] // ''); }
    elsif ($verb eq 'PUT')  { write_file($id, $rest[0], join(' ', @rest[1 .. $#rest]), $bytes); }
    elsif ($verb eq 'STIR') { stir($id, $bytes, @rest); }
    elsif ($verb eq 'KILL') { kill KILL => -$jobs{$id}{pid} if $jobs{$id}; }
    elsif ($verb eq 'PING') { put("P $id 0\n"); }
}

# The header of a command whose bytes are still coming. By index and substr: a capture would copy megabytes at each read.
my @header;

sub parse {
    while (1) {
        if (!@header) {
            my $end = index $input, "\n";
            return if $end < 0;
            @header = split / /, substr $input, 0, $end;
            substr $input, 0, $end + 1, '';
            if (($header[0] // '') !~ /^[A-Z]+$/ || ($header[2] // '') !~ /^\d+$/) { @header = (); next; }
        }
        return if length $input < $header[2];
        my ($verb, $id, $length, @rest) = @header;
        @header = ();
        command($verb, $id, substr($input, 0, $length, ''), @rest);
    }
}

while (1) {
    my $wait = '';
    vec($wait, fileno $port, 1) = 1;
    for my $job (values %jobs) {
        vec($wait, fileno $job->{$_}, 1) = 1 for grep { $job->{$_} } 'O', 'E';
    }
    # The time limit is for children that end with their pipes closed long before, or held by others.
    my $ready = $wait;
    my $count = select $ready, undef, undef, %jobs ? 0.02 : 1;
    if ($count > 0) {
        for my $id (keys %jobs) {
            for my $stream ('O', 'E') {
                my $from = $jobs{$id}{$stream} or next;
                drain($id, $stream) if vec $ready, fileno $from, 1;
            }
        }
        if (vec $ready, fileno $port, 1) {
            my $got = sysread $port, my $bytes, 1 << 18;
            if   ($got) { $input .= $bytes; }
            else        { select undef, undef, undef, 0.02; }    # no host: the port reads as ended
        }
        parse();
    }
    reap() if %jobs;
}
