# Sourced in the guest:  . rails_up.sh N LAYOUT
#  flat    N rails a$i <-> b$i (veth), 10.77.$i.1/24 and 10.77.$i.2/24, rxe devices ra$i and rb$i on them, in one namespace
#          (rxe in 6.1 only sends and receives in the first network namespace).  A packet to a local address would
#          short-cut over lo, so the table "local" is looked up only for packets that came in on a rail.
#  pair-a  this guest's end of the rails of two guests: a$i on vec$i, 10.77.$i.1/24, rxe ra$i; ctl0 10.76.0.1/24 on vec$N
#  pair-b  the other end: b$i, 10.77.$i.2/24, rxe rb$i; ctl0 10.76.0.2/24
# MTU 4400 gives the RoCE MTU 4096.  rail_restore I (also bin/rail_restore.sh) puts a rail back after a fault.
RG_N=$1 RG_LAYOUT=${2:-flat}
RG_BIN=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# the UML kernel has everything built in; the stock kernel has modules
if [ -d "/lib/modules/$(uname -r)" ]; then modprobe -a crc32_generic rdma_rxe rdma_ucm ib_uverbs veth sch_tbf sch_netem || return 1; fi
export RG_N RG_LAYOUT RAIL_MTU=${RAIL_MTU:-4400}
rail_restore() { bash "$RG_BIN/rail_restore.sh" "$@"; }

# no forks in the loops: a fork costs 10-30 ms under User-mode Linux
rg_net= rg_rdma=
case $RG_LAYOUT in
flat)
  # before the links exist, so that they inherit it
  for d in default all; do echo 0 > /proc/sys/net/ipv4/conf/$d/rp_filter; done
  echo 1 > /proc/sys/net/ipv4/conf/default/accept_local
  for ((i=0;i<RG_N;i++)); do
    printf -v ma '02:77:00:00:%02x:01' $i; printf -v mb '02:77:00:00:%02x:02' $i
    rg_net+="link add a$i address $ma mtu $RAIL_MTU type veth peer name b$i address $mb mtu $RAIL_MTU
addr add 10.77.$i.1/24 dev a$i
addr add 10.77.$i.2/24 dev b$i
link set a$i up
link set b$i up
rule add pref 10 iif a$i lookup local
rule add pref 10 iif b$i lookup local
rule add pref 20 from 10.77.$i.1 to 10.77.$i.2 lookup $((1000+i))
rule add pref 20 from 10.77.$i.2 to 10.77.$i.1 lookup $((2000+i))
route replace 10.77.$i.2 dev a$i src 10.77.$i.1 table $((1000+i))
route replace 10.77.$i.1 dev b$i src 10.77.$i.2 table $((2000+i))
neigh replace 10.77.$i.2 lladdr $mb nud permanent dev a$i
neigh replace 10.77.$i.1 lladdr $ma nud permanent dev b$i
"
    rg_rdma+="link add ra$i type rxe netdev a$i
link add rb$i type rxe netdev b$i
"
  done
  ip -batch - <<< "${rg_net}rule add pref 30000 lookup local
rule del pref 0" || return 1;;
pair-a|pair-b)
  s=${RG_LAYOUT#pair-}; if [ $s = a ]; then h=1; else h=2; fi
  # vec$i loses its socket for good when it is set down, so the rail is a macvlan on top of it that may go down and up;
  # passthru and arp off: or else vec$i, too, would answer for the rail's address, by its own MAC, and rxe drop what comes there
  for ((i=0;i<RG_N;i++)); do
    printf -v m '02:77:00:00:%02x:%02x' $i $h
    rg_net+="link set vec$i arp off up
link add link vec$i name $s$i address $m mtu $RAIL_MTU type macvlan mode passthru
addr add 10.77.$i.$h/24 dev $s$i
link set $s$i up
"
    rg_rdma+="link add r$s$i type rxe netdev $s$i
"
  done
  ip -batch - <<< "${rg_net}link set vec$RG_N name ctl0
addr add 10.76.0.$h/24 dev ctl0
link set ctl0 up" || return 1
  # the other guest may still be booting
  for ((i=0;i<100;i++)); do busybox ping -c1 -W1 10.76.0.$((3-h)) >/dev/null 2>&1 && break; sleep 0.1; done;;
*) echo "rails_up.sh: unknown layout $RG_LAYOUT"; return 1;;
esac
rdma -b - <<< "$rg_rdma" || return 1
unset rg_net rg_rdma
