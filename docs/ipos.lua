-- Wireshark dissector for the ipOS wire format (docs/wire.md).
--
--   tshark -X lua_script:docs/ipos.lua -r capture.pcap
--
-- or copy this file into Wireshark's personal plugin folder (Help, About, Folders).
--
-- A farm uses EtherType 0x88B5 or 0x0007. The latter is below 0x0600, so Wireshark takes it for an 802.3 length; a
-- heuristic dissector looks at such frames first and takes those whose header makes sense. Filters begin with ipos_farm.

-- Wireshark has a protocol "ipos" already (IP over Satellite).
local ipos = Proto("ipos_farm", "ipOS Farm Protocol")

local ETHERTYPE = 0x88b5
local ETHERTYPE_OF_FIGURE = 0x0007
local ETHERNET_LEN, HEADER_LEN, TRAILER_LEN, TAG_LEN = 14, 16, 24, 16
local LIST_FIXED_LEN, ROW_LEN, ROWS_MAX = 32, 32, 40
local ORDER_LEN, OFFERS_FIXED_LEN, OFFER_LEN, OFFERS_MAX, NAME_LEN = 88, 32, 64, 20, 32
local TCP, UDP = 1, 2

local types = {
	[0x01] = "Connection", [0x02] = "Packet", [0x03] = "Migration acknowledgement", [0x04] = "Migration refused",
	[0x05] = "Detach", [0x06] = "Detached / still busy", [0x07] = "Endpoint closed", [0x08] = "Who holds this endpoint?",
	[0x09] = "I hold this endpoint", [0x10] = "Server state", [0x11] = "Listening sockets",
	[0x12] = "Application information", [0x13] = "Close idle connections",
	[0x20] = "Order", [0x21] = "Outcome", [0x22] = "Offers",
}
local protocols = { [0] = "none", [TCP] = "TCP", [UDP] = "UDP" }
local refusal_reasons = {
	[1] = "no listener on the port", [2] = "the listener does not cover the service address",
	[3] = "accept queue full", [4] = "endpoint table full", [5] = "control block not acceptable",
	[6] = "MSS below 536", [7] = "the listener speaks MPTCP", [8] = "the endpoint is held by another connection",
	[9] = "protocol not supported",
}
local closed_reasons = {
	[0] = "the endpoint closed", [1] = "not held", [2] = "stray packet for an endpoint that is not held",
	[3] = "given up by force",
}
local detach_outcomes = { [1] = "detached", [2] = "still busy", [3] = "not held" }
local actions = { [1] = "start", [2] = "stop" }
local progress = {
	[1] = "starting", [2] = "listening", [3] = "stopping", [4] = "stopped", [5] = "busy", [16] = "not listed",
	[17] = "exited", [18] = "never listened", [19] = "backing off", [20] = "cannot be started", [21] = "unknown action",
}
local held_states = { [1] = "pending", [2] = "live" }
local tcp_states = {
	[0] = "CLOSED", [1] = "LISTEN", [2] = "SYN-SENT", [3] = "SYN-RECEIVED", [4] = "ESTABLISHED", [5] = "FIN-WAIT-1",
	[6] = "FIN-WAIT-2", [7] = "CLOSE-WAIT", [8] = "CLOSING", [9] = "LAST-ACK", [10] = "TIME-WAIT",
}

local f = {
	-- Ethernet, where this file and not Wireshark's own dissector reads it.
	eth_dst = ProtoField.ether("ipos_farm.eth.dst", "Destination MAC"),
	eth_src = ProtoField.ether("ipos_farm.eth.src", "Source MAC"),
	eth_type = ProtoField.uint16("ipos_farm.eth.type", "EtherType", base.HEX),
	-- Header (Fig. 11B).
	client = ProtoField.ipv4("ipos_farm.client", "Client"),
	client_port = ProtoField.uint16("ipos_farm.client_port", "Client port"),
	endpoint = ProtoField.ipv4("ipos_farm.endpoint", "Endpoint"),
	endpoint_port = ProtoField.uint16("ipos_farm.endpoint_port", "Endpoint port"),
	type = ProtoField.uint8("ipos_farm.type", "Type", base.HEX, types),
	protocol = ProtoField.uint8("ipos_farm.protocol", "Protocol", base.DEC, protocols),
	checksum = ProtoField.uint16("ipos_farm.checksum", "Checksum", base.HEX),
	checksum_good = ProtoField.bool("ipos_farm.checksum.good", "Checksum right"),
	-- Connection information (Figs 11C and 11D).
	server = ProtoField.ipv4("ipos_farm.server", "Server"),
	server_port = ProtoField.uint16("ipos_farm.server_port", "Server port"),
	-- Bodies and trailer of 0x03 to 0x09.
	refusal = ProtoField.uint8("ipos_farm.refusal", "Reason", base.DEC, refusal_reasons),
	closed = ProtoField.uint8("ipos_farm.closed", "Reason", base.DEC, closed_reasons),
	held = ProtoField.uint8("ipos_farm.held", "State", base.DEC, held_states),
	detached = ProtoField.uint8("ipos_farm.detached", "Outcome", base.DEC, detach_outcomes),
	next_seq = ProtoField.uint32("ipos_farm.next.seq", "SEG.SEQ of the next request"),
	next_ack = ProtoField.uint32("ipos_farm.next.ack", "SEG.ACK of the next request"),
	force = ProtoField.bool("ipos_farm.force", "Force", 8, nil, 0x01),
	migration_id = ProtoField.uint64("ipos_farm.migration_id", "Migration id", base.HEX),
	tag = ProtoField.bytes("ipos_farm.tag", "Authentication tag"),
	-- Reports.
	version = ProtoField.uint8("ipos_farm.version", "Version"),
	draining = ProtoField.bool("ipos_farm.state.draining", "Draining", 8, nil, 0x01),
	interval = ProtoField.uint16("ipos_farm.state.interval_ms", "Report interval (ms)"),
	epoch = ProtoField.absolute_time("ipos_farm.epoch", "Agent started", base.UTC),
	sequence = ProtoField.uint32("ipos_farm.sequence", "Sequence"),
	cpu_cores = ProtoField.uint16("ipos_farm.state.cpu_cores", "CPU cores"),
	cpu_utilisation = ProtoField.uint16("ipos_farm.state.cpu_utilisation", "CPU utilisation (hundredths of a percent)"),
	established = ProtoField.uint32("ipos_farm.state.established", "Established TCP connections"),
	memory = ProtoField.uint64("ipos_farm.state.memory", "Memory (octets)"),
	memory_available = ProtoField.uint64("ipos_farm.state.memory_available", "Available memory (octets)"),
	link_speed = ProtoField.uint64("ipos_farm.state.link_speed_bps", "Link speed (bit/s)"),
	bandwidth = ProtoField.uint64("ipos_farm.state.bandwidth_available_bps", "Available bandwidth (bit/s)"),
	idle = ProtoField.uint16("ipos_farm.idle_ms", "Quiet for at least (ms)"),
	endpoints_held = ProtoField.uint32("ipos_farm.state.endpoints_held", "Endpoints held"),
	pressure = ProtoField.bool("ipos_farm.state.pressure", "Pressure is told", 8, nil, 0x02),
	cpu_pressure = ProtoField.uint16("ipos_farm.state.cpu_pressure", "CPU pressure (hundredths of a percent)"),
	memory_pressure = ProtoField.uint16("ipos_farm.state.memory_pressure", "Memory pressure (hundredths of a percent)"),
	part = ProtoField.uint8("ipos_farm.list.part", "Part (from 0)"),
	parts = ProtoField.uint8("ipos_farm.list.parts", "Parts"),
	rows = ProtoField.uint8("ipos_farm.list.rows", "Rows"),
	row_address = ProtoField.ipv4("ipos_farm.listening.address", "Address"),
	row_port = ProtoField.uint16("ipos_farm.listening.port", "Port"),
	row_ipv6 = ProtoField.bool("ipos_farm.listening.ipv6", "Bound to [::]", 16, nil, 0x0001),
	row_mptcp = ProtoField.bool("ipos_farm.listening.mptcp", "MPTCP", 16, nil, 0x0002),
	row_queue_len = ProtoField.uint32("ipos_farm.listening.queue_len", "Accept queue length"),
	row_queue_max = ProtoField.uint32("ipos_farm.listening.queue_max", "Accept queue limit"),
	row_pid = ProtoField.uint32("ipos_farm.listening.pid", "Process id"),
	row_name = ProtoField.string("ipos_farm.listening.name", "Process name"),
	app_pid = ProtoField.uint32("ipos_farm.application.pid", "Process id"),
	app_processes = ProtoField.uint16("ipos_farm.application.processes", "Processes"),
	app_interval = ProtoField.uint16("ipos_farm.application.interval_ms", "CPU measured over (ms)"),
	app_memory = ProtoField.uint64("ipos_farm.application.memory", "Resident memory (octets)"),
	app_cpu = ProtoField.uint32("ipos_farm.application.cpu", "CPU (hundredths of a percent of one core)"),
	app_name = ProtoField.string("ipos_farm.application.name", "Process name"),
	-- Spawning.
	action = ProtoField.uint8("ipos_farm.order.action", "Action", base.DEC, actions),
	order = ProtoField.uint64("ipos_farm.order.id", "Order", base.HEX),
	application = ProtoField.string("ipos_farm.application", "Application"),
	progress = ProtoField.uint8("ipos_farm.outcome.progress", "Progress", base.DEC, progress),
	retry = ProtoField.uint32("ipos_farm.retry_ms", "Not again for (ms)"),
	process = ProtoField.uint32("ipos_farm.outcome.pid", "Process id"),
	detail = ProtoField.uint32("ipos_farm.outcome.detail", "Exit status or error number"),
	offer_memory = ProtoField.uint64("ipos_farm.offer.memory", "Memory needed (octets)"),
	offer_cpu = ProtoField.uint16("ipos_farm.offer.cpu", "CPU needed (hundredths of a core)"),
	offer_max = ProtoField.uint16("ipos_farm.offer.instances_max", "Instances at most"),
	offer_listening = ProtoField.uint16("ipos_farm.offer.listening", "Instances that listen"),
	offer_starting = ProtoField.uint16("ipos_farm.offer.starting", "Instances that start"),
	offer_failures = ProtoField.uint16("ipos_farm.offer.failures", "Failures"),
	offer_draining = ProtoField.bool("ipos_farm.offer.draining", "Draining", 16, nil, 0x0001),
	offer_address = ProtoField.ipv4("ipos_farm.offer.address", "Address"),
	offer_port = ProtoField.uint16("ipos_farm.offer.port", "Port"),
	-- TCP options, in the control block and in the server state.
	options = ProtoField.uint16("ipos_farm.options", "TCP options", base.HEX),
	option_timestamps = ProtoField.bool("ipos_farm.options.timestamps", "Timestamps", 16, nil, 0x0001),
	option_sack = ProtoField.bool("ipos_farm.options.sack", "SACK", 16, nil, 0x0002),
	option_window_scale = ProtoField.bool("ipos_farm.options.window_scale", "Window scale", 16, nil, 0x0004),
	option_ecn = ProtoField.bool("ipos_farm.options.ecn", "ECN", 16, nil, 0x0008),
	body = ProtoField.bytes("ipos_farm.body", "Body"),
	padding = ProtoField.bytes("ipos_farm.padding", "Ethernet padding"),
}

-- The TCP control block, by offset and size in octets. Reserved octets are not shown.
local tcb_fields = {
	{ "version", "Version", 0, 1 }, { "state", "State", 1, 1, tcp_states }, { "options", nil, 2, 2 },
	{ "client_mss", "Client's MSS", 4, 2 }, { "our_mss", "MSS we advertised", 6, 2 },
	{ "client_window_scale", "Client's window scale", 8, 1 }, { "our_window_scale", "Our window scale", 9, 1 },
	{ "iss", "ISS", 12, 4 }, { "irs", "IRS", 16, 4 }, { "snd_una", "SND.UNA", 20, 4 }, { "snd_nxt", "SND.NXT", 24, 4 },
	{ "snd_wnd", "SND.WND (octets)", 28, 4 }, { "snd_wl1", "SND.WL1", 32, 4 }, { "snd_wl2", "SND.WL2", 36, 4 },
	{ "rcv_nxt", "RCV.NXT", 40, 4 }, { "rcv_wnd", "RCV.WND (octets)", 44, 4 }, { "ts_recent", "TS.Recent", 48, 4 },
	{ "last_tsval", "Last TSval we sent", 52, 4 }, { "srtt_us", "SRTT (us)", 56, 4 },
	{ "rttvar_us", "RTTVAR (us)", 60, 4 }, { "cwnd", "Congestion window (octets)", 64, 4 },
	{ "ssthresh", "Slow-start threshold (octets)", 68, 4 }, { "migration_id", nil, 72, 8, nil, f.migration_id },
	{ "established_at_us", "Established at (Unix us)", 80, 8 }, { "service_id", "Service id", 88, 4 },
	{ "octets_following", "Octets of client data that follow", 92, 4 }, { "appliance_id", "Appliance id", 96, 2 },
	{ "epoch", "Epoch of the appliance", 98, 2 }, { "tag", nil, 124, 16, nil, f.tag },
}
local TCB_LEN = 140
local unsigned = { [1] = ProtoField.uint8, [2] = ProtoField.uint16, [4] = ProtoField.uint32, [8] = ProtoField.uint64 }
local tcb_tree = ProtoField.none("ipos_farm.tcb", "TCP control block")

local all_fields = { tcb_tree }
for _, field in pairs(f) do
	table.insert(all_fields, field)
end
for _, row in ipairs(tcb_fields) do
	local name, label, size, values, shared = row[1], row[2], row[4], row[5], row[6]
	if shared then
		row.field = shared
	elseif label then
		row.field = unsigned[size]("ipos_farm.tcb." .. name, label, base.DEC, values)
		table.insert(all_fields, row.field)
	end
end
ipos.fields = all_fields

local e = {
	checksum = ProtoExpert.new("ipos_farm.checksum.bad", "wrong checksum", expert.group.CHECKSUM, expert.severity.ERROR),
	short = ProtoExpert.new("ipos_farm.short", "the frame ends before the message does", expert.group.MALFORMED,
		expert.severity.ERROR),
	unknown = ProtoExpert.new("ipos_farm.unknown", "unknown type or protocol", expert.group.UNDECODED,
		expert.severity.NOTE),
	version = ProtoExpert.new("ipos_farm.version.unknown", "unknown version", expert.group.UNDECODED, expert.severity.WARN),
}
ipos.experts = { e.checksum, e.short, e.unknown, e.version }

-- Whether the one's complement sum (RFC 1071) over the first len octets, checksum included, is right.
local function sum_is_right(tvb, len)
	local sum = 0
	for at = 0, len - 2, 2 do
		sum = sum + tvb(at, 2):uint()
	end
	if len % 2 == 1 then
		sum = sum + tvb(len - 1, 1):uint() * 256
	end
	while sum > 0xffff do
		sum = (sum % 0x10000) + math.floor(sum / 0x10000)
	end
	return sum == 0xffff
end

-- Octets of the message at the start of tvb: how much of it the checksum covers, and how long it is. Nothing for types
-- that this file does not know, because only their format could tell. Lengths never come from the frame.
local function lengths(tvb)
	local kind, protocol = tvb(12, 1):uint(), tvb(13, 1):uint()
	if kind == 0x01 then
		local len = protocol == UDP and HEADER_LEN + 6 or HEADER_LEN + 6 + TCB_LEN
		return len, len
	elseif kind == 0x02 then
		local total = tvb:len() >= HEADER_LEN + 4 and tvb(HEADER_LEN + 2, 2):uint() or 20
		return HEADER_LEN, HEADER_LEN + math.max(total, 20)
	elseif kind == 0x03 then
		-- The figure's bare frame, or with a trailer; padding behind the bare frame sums to nothing.
		local len = tvb:len() >= HEADER_LEN + TRAILER_LEN and HEADER_LEN + TRAILER_LEN or HEADER_LEN
		if len > HEADER_LEN and tvb(HEADER_LEN, TRAILER_LEN):bytes():tohex():match("^0+$") then
			return len, HEADER_LEN
		end
		return len, len
	elseif kind == 0x08 then
		return HEADER_LEN + TRAILER_LEN, HEADER_LEN + TRAILER_LEN
	elseif kind == 0x05 or kind == 0x06 then
		return HEADER_LEN + 12 + TRAILER_LEN, HEADER_LEN + 12 + TRAILER_LEN
	elseif kind == 0x04 or kind == 0x07 or kind == 0x09 then
		return HEADER_LEN + 4 + TRAILER_LEN, HEADER_LEN + 4 + TRAILER_LEN
	elseif kind == 0x10 then
		return 96, 96
	elseif kind == 0x13 then
		return 36, 36
	elseif kind == 0x11 or kind == 0x12 then
		local rows = tvb:len() >= LIST_FIXED_LEN and tvb(19, 1):uint() or 0
		local len = LIST_FIXED_LEN + ROW_LEN * math.min(rows, ROWS_MAX) + TAG_LEN
		return len, len
	elseif kind == 0x20 or kind == 0x21 then
		return ORDER_LEN, ORDER_LEN
	elseif kind == 0x22 then
		local rows = tvb:len() >= OFFERS_FIXED_LEN and tvb(19, 1):uint() or 0
		local len = OFFERS_FIXED_LEN + OFFER_LEN * math.min(rows, OFFERS_MAX) + TAG_LEN
		return len, len
	end
end

local function add_options(tree, range)
	local options = tree:add(f.options, range)
	options:add(f.option_timestamps, range)
	options:add(f.option_sack, range)
	options:add(f.option_window_scale, range)
	options:add(f.option_ecn, range)
end

local function add_trailer(tree, range)
	tree:add(f.migration_id, range(0, 8))
	tree:add(f.tag, range(8, TAG_LEN))
end

local function add_version(tree, range)
	local item = tree:add(f.version, range)
	if range:uint() ~= 1 then
		item:add_proto_expert_info(e.version)
	end
end

local function add_tcb(tree, range)
	local block = tree:add(tcb_tree, range)
	for _, row in ipairs(tcb_fields) do
		local name, at, size = row[1], row[3], row[4]
		if name == "options" then
			add_options(block, range(at, size))
		else
			local item = block:add(row.field, range(at, size))
			if name == "version" and range(at, size):uint() ~= 1 then
				item:add_proto_expert_info(e.version)
			end
		end
	end
end

local function add_connection(tree, tvb)
	tree:add(f.server, tvb(16, 4))
	tree:add(f.server_port, tvb(20, 2))
	if tvb(13, 1):uint() ~= UDP then
		add_tcb(tree, tvb(22, TCB_LEN))
	end
	return string.format(" to %s:%d", tostring(tvb(16, 4):ipv4()), tvb(20, 2):uint())
end

local function add_server_state(tree, tvb)
	add_version(tree, tvb(16, 1))
	tree:add(f.draining, tvb(17, 1))
	tree:add(f.pressure, tvb(17, 1))
	tree:add(f.interval, tvb(18, 2))
	tree:add(f.epoch, tvb(20, 4))
	tree:add(f.sequence, tvb(24, 4))
	add_options(tree, tvb(28, 2))
	tree:add(f.cpu_cores, tvb(30, 2))
	tree:add(f.cpu_utilisation, tvb(32, 2)):append_text(string.format(" = %.2f %%", tvb(32, 2):uint() / 100))
	tree:add(f.established, tvb(36, 4))
	tree:add(f.memory, tvb(40, 8))
	tree:add(f.memory_available, tvb(48, 8))
	tree:add(f.link_speed, tvb(56, 8))
	tree:add(f.bandwidth, tvb(64, 8))
	tree:add(f.endpoints_held, tvb(72, 4))
	-- Without the flag the octets say nothing.
	if math.floor(tvb(17, 1):uint() / 2) % 2 == 1 then
		tree:add(f.cpu_pressure, tvb(34, 2)):append_text(string.format(" = %.2f %%", tvb(34, 2):uint() / 100))
		tree:add(f.memory_pressure, tvb(76, 2)):append_text(string.format(" = %.2f %%", tvb(76, 2):uint() / 100))
	end
	tree:add(f.tag, tvb(80, TAG_LEN))
	return string.format(", sequence %d", tvb(24, 4):uint())
end

-- What 0x11 and 0x12 have in common: `add_row` adds one row of 32 octets.
local function add_list(tree, tvb, add_row)
	add_version(tree, tvb(16, 1))
	tree:add(f.part, tvb(17, 1))
	tree:add(f.parts, tvb(18, 1))
	tree:add(f.rows, tvb(19, 1))
	tree:add(f.epoch, tvb(20, 4))
	tree:add(f.sequence, tvb(24, 4))
	local rows = math.min(tvb(19, 1):uint(), ROWS_MAX)
	for number = 0, rows - 1 do
		add_row(tree, tvb(LIST_FIXED_LEN + ROW_LEN * number, ROW_LEN))
	end
	tree:add(f.tag, tvb(LIST_FIXED_LEN + ROW_LEN * rows, TAG_LEN))
	return string.format(", part %d of %d, %d rows", tvb(17, 1):uint(), tvb(18, 1):uint(), rows)
end

local function add_socket(tree, range)
	local name = range(20, 12):stringz()
	local text = string.format("Socket %s:%d, %s", tostring(range(0, 4):ipv4()), range(4, 2):uint(), name)
	local row = tree:add(range, text)
	row:add(f.row_address, range(0, 4))
	row:add(f.row_port, range(4, 2))
	row:add(f.row_ipv6, range(6, 2))
	row:add(f.row_mptcp, range(6, 2))
	row:add(f.row_queue_len, range(8, 4))
	row:add(f.row_queue_max, range(12, 4))
	row:add(f.row_pid, range(16, 4))
	row:add(f.row_name, range(20, 12), name)
end

local function add_application(tree, range)
	local name = range(20, 12):stringz()
	local row = tree:add(range, string.format("Application %s, process %d", name, range(0, 4):uint()))
	row:add(f.app_pid, range(0, 4))
	row:add(f.app_processes, range(4, 2))
	row:add(f.app_interval, range(6, 2))
	row:add(f.app_memory, range(8, 8))
	row:add(f.app_cpu, range(16, 4)):append_text(string.format(" = %.2f %%", range(16, 4):uint() / 100))
	row:add(f.app_name, range(20, 12), name)
end

local function add_order(tree, tvb)
	add_version(tree, tvb(16, 1))
	local name = tvb(40, NAME_LEN):stringz()
	tree:add(f.action, tvb(17, 1))
	tree:add(f.order, tvb(24, 8))
	tree:add(f.application, tvb(40, NAME_LEN), name)
	tree:add(f.tag, tvb(72, TAG_LEN))
	return string.format(": %s %s", actions[tvb(17, 1):uint()] or "unknown action for", name)
end

local function add_outcome(tree, tvb)
	add_version(tree, tvb(16, 1))
	local name = tvb(40, NAME_LEN):stringz()
	tree:add(f.progress, tvb(17, 1))
	tree:add(f.retry, tvb(20, 4))
	tree:add(f.order, tvb(24, 8))
	tree:add(f.process, tvb(32, 4))
	tree:add(f.detail, tvb(36, 4))
	tree:add(f.application, tvb(40, NAME_LEN), name)
	tree:add(f.tag, tvb(72, TAG_LEN))
	return string.format(": %s %s", name, progress[tvb(17, 1):uint()] or "unknown progress")
end

local function add_offers(tree, tvb)
	add_version(tree, tvb(16, 1))
	tree:add(f.part, tvb(17, 1))
	tree:add(f.parts, tvb(18, 1))
	tree:add(f.rows, tvb(19, 1))
	tree:add(f.epoch, tvb(20, 4))
	tree:add(f.sequence, tvb(24, 4))
	local rows = math.min(tvb(19, 1):uint(), OFFERS_MAX)
	for number = 0, rows - 1 do
		local range = tvb(OFFERS_FIXED_LEN + OFFER_LEN * number, OFFER_LEN)
		local name = range(0, NAME_LEN):stringz()
		local row = tree:add(range, string.format("Application %s", name))
		row:add(f.application, range(0, NAME_LEN), name)
		row:add(f.offer_memory, range(32, 8))
		row:add(f.offer_cpu, range(40, 2))
		row:add(f.offer_max, range(42, 2))
		row:add(f.offer_listening, range(44, 2))
		row:add(f.offer_starting, range(46, 2))
		row:add(f.offer_failures, range(48, 2))
		row:add(f.offer_draining, range(50, 2))
		row:add(f.retry, range(52, 4))
		row:add(f.offer_address, range(56, 4))
		row:add(f.offer_port, range(60, 2))
	end
	tree:add(f.tag, tvb(OFFERS_FIXED_LEN + OFFER_LEN * rows, TAG_LEN))
	return string.format(", part %d of %d, %d rows", tvb(17, 1):uint(), tvb(18, 1):uint(), rows)
end

local function add_close_idle(tree, tvb)
	add_version(tree, tvb(16, 1))
	tree:add(f.idle, tvb(18, 2))
	tree:add(f.tag, tvb(20, TAG_LEN))
	return string.format(", quiet for %d ms", tvb(18, 2):uint())
end

local function add_coded(tree, tvb, field, words)
	local code = tvb(16, 1)
	tree:add(field, code)
	add_trailer(tree, tvb(20, TRAILER_LEN))
	return words and ": " .. (words[code:uint()] or "unknown code " .. code:uint()) or ""
end

local function add_next_request(tree, tvb)
	tree:add(f.next_seq, tvb(20, 4))
	tree:add(f.next_ack, tvb(24, 4))
	add_trailer(tree, tvb(28, TRAILER_LEN))
end

-- Adds what follows the header of a message that is whole, and returns words for the Info column.
local bodies = {
	[0x01] = add_connection,
	[0x03] = function(tree, tvb, len)
		if len > HEADER_LEN then
			add_trailer(tree, tvb(HEADER_LEN, TRAILER_LEN))
			return ""
		end
		return " (bare)"
	end,
	[0x04] = function(tree, tvb) return add_coded(tree, tvb, f.refusal, refusal_reasons) end,
	[0x05] = function(tree, tvb)
		tree:add(f.force, tvb(16, 1))
		add_next_request(tree, tvb)
		if tvb(16, 1):uint() % 2 == 1 then
			return ", by force"
		end
		return string.format(", if the request at %d shows it quiescent", tvb(20, 4):uint())
	end,
	[0x06] = function(tree, tvb)
		local code = tvb(16, 1)
		tree:add(f.detached, code)
		add_next_request(tree, tvb)
		return ": " .. (detach_outcomes[code:uint()] or "unknown code " .. code:uint())
	end,
	[0x07] = function(tree, tvb) return add_coded(tree, tvb, f.closed, closed_reasons) end,
	[0x08] = function(tree, tvb)
		add_trailer(tree, tvb(HEADER_LEN, TRAILER_LEN))
		return ""
	end,
	[0x09] = function(tree, tvb) return add_coded(tree, tvb, f.held, held_states) end,
	[0x10] = add_server_state,
	[0x11] = function(tree, tvb) return add_list(tree, tvb, add_socket) end,
	[0x12] = function(tree, tvb) return add_list(tree, tvb, add_application) end,
	[0x13] = add_close_idle,
	[0x20] = add_order,
	[0x21] = add_outcome,
	[0x22] = add_offers,
}

local function add_header(tree, tvb, covered)
	tree:add(f.client, tvb(0, 4))
	tree:add(f.client_port, tvb(4, 2))
	tree:add(f.endpoint, tvb(6, 4))
	tree:add(f.endpoint_port, tvb(10, 2))
	local kind = tree:add(f.type, tvb(12, 1))
	local protocol = tree:add(f.protocol, tvb(13, 1))
	local checksum = tree:add(f.checksum, tvb(14, 2))
	if not covered then
		kind:add_proto_expert_info(e.unknown)
	elseif covered <= tvb:len() then
		local good = sum_is_right(tvb, covered)
		tree:add(f.checksum_good, tvb(14, 2), good):set_generated()
		if not good then
			checksum:add_proto_expert_info(e.checksum)
		end
	end
	if not protocols[tvb(13, 1):uint()] then
		protocol:add_proto_expert_info(e.unknown)
	end
end

function ipos.dissector(tvb, pinfo, root)
	pinfo.cols.protocol = "ipOS"
	local tree = root:add(ipos, tvb())
	if tvb:len() < HEADER_LEN then
		tree:add_proto_expert_info(e.short)
		return tvb:len()
	end
	local kind = tvb(12, 1):uint()
	local covered, len = lengths(tvb)
	add_header(tree, tvb, covered)
	local flow = string.format("%s:%d > %s:%d", tostring(tvb(0, 4):ipv4()), tvb(4, 2):uint(),
		tostring(tvb(6, 4):ipv4()), tvb(10, 2):uint())
	local info = string.format("%s %s", types[kind] or string.format("Unknown type 0x%02x", kind), flow)
	pinfo.cols.info = info
	if not bodies[kind] and kind ~= 0x02 then
		if tvb:len() > HEADER_LEN then
			tree:add(f.body, tvb(HEADER_LEN))
		end
		return tvb:len()
	end
	if tvb:len() < len then
		tree:add_proto_expert_info(e.short)
		if tvb:len() > HEADER_LEN then
			tree:add(f.body, tvb(HEADER_LEN))
		end
		return tvb:len()
	end
	tree:set_len(len)
	if kind == 0x02 then
		-- The client's own packet: Wireshark knows it better. Its Info stays, behind ours.
		Dissector.get("ip"):call(tvb(HEADER_LEN, len - HEADER_LEN):tvb(), pinfo, root)
		pinfo.cols.protocol:prepend("ipOS/")
		pinfo.cols.info:prepend("Packet: ")
	else
		pinfo.cols.info = info .. bodies[kind](tree, tvb, len)
	end
	if tvb:len() > len then
		root:add(f.padding, tvb(len))
	end
	return tvb:len()
end

-- Frames of EtherType 0x0007, from their first octet on.
local function dissect_figure_frame(tvb, pinfo, root)
	if tvb:len() < ETHERNET_LEN + HEADER_LEN or tvb(12, 2):uint() ~= ETHERTYPE_OF_FIGURE then
		return false
	end
	local message = tvb(ETHERNET_LEN):tvb()
	local kind, protocol = message(12, 1):uint(), message(13, 1):uint()
	-- An 802.3 frame of seven octets is possible, one whose padding sums up like an ipOS header is not. A header whose
	-- fields all make sense is taken too, so that a damaged message can be seen as such.
	if not (types[kind] and protocols[protocol]) and not sum_is_right(message, HEADER_LEN) then
		return false
	end
	pinfo.cols.dl_dst = tostring(tvb(0, 6):ether())
	pinfo.cols.dl_src = tostring(tvb(6, 6):ether())
	local tree = root:add(tvb(0, ETHERNET_LEN), "Ethernet of an ipOS farm with type 0x0007")
	tree:add(f.eth_dst, tvb(0, 6))
	tree:add(f.eth_src, tvb(6, 6))
	tree:add(f.eth_type, tvb(12, 2))
	ipos.dissector(message, pinfo, root)
	return true
end

DissectorTable.get("ethertype"):add(ETHERTYPE, ipos)
ipos:register_heuristic("eth", dissect_figure_frame)
