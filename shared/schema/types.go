package schema

import (
	"slices"

	"github.com/sapflow/sapflow/shared/point"
)

// Settings that every node has that a driver works for.
const (
	Description = point.TypeDescription
	Disabled    = "disabled"

	TimeResolution = "timeResolution"
	DeadBand       = "deadBand"
	MinInterval    = "minInterval"
	MaxInterval    = "maxInterval"
	Window         = "window"
	WindowValue    = "windowValue"
)

// Points that every such node tells.
const (
	Applied = point.TypeApplied // answers to settings
	Errors  = "errors"          // how often something failed
	Error   = "error"           // what failed last, "" if all is well again
	Rate    = "rate"            // readings a second
	Reduced = "reduced"         // readings left out by deadBand, intervals and window
	Missed  = "missed"          // polls left out because the one before took too long
)

// The words of WindowValue.
const (
	WindowAverage = "average"
	WindowMin     = "min"
	WindowMax     = "max"
	WindowAll     = "all"
)

// Words that Below uses.
const (
	belowGateway = "a gateway"
	belowHub     = "anything but a gateway"
)

var told = []string{Applied, Errors, Error, Rate, Reduced, Missed}

// anywhere are settings of every node that a driver works for.
var anywhere = []Setting{
	{Name: Description, Kind: Text, Help: "name of the node"},
	{Name: Disabled, Kind: Bool, Default: false, Help: "stops it"},
}

// readings are settings of every node that readings are written to.
var readings = []Setting{
	{Name: TimeResolution, Kind: Integer, Unit: "ms", Range: &Range{1, 60_000}, Default: 1., Help: "what the times of readings are cut to"},
	{Name: DeadBand, Kind: Number, Range: &Range{0, 1e12}, Default: 0., Help: "a reading no further than this from the last one kept is left out"},
	{Name: MinInterval, Kind: Number, Unit: "s", Range: &Range{0, 86_400}, Default: 0., Help: "a reading sooner than this after the last one kept is left out"},
	{Name: MaxInterval, Kind: Number, Unit: "s", Range: &Range{0, 86_400}, Default: 0., Help: "a reading this long after the last one kept is kept whatever it is; 0: never"},
	{Name: Window, Kind: Number, Unit: "s", Range: &Range{0, 86_400}, Default: 0., Help: "readings of so long become one; 0: each stands for itself"},
	{Name: WindowValue, Kind: Text, Words: []string{WindowAverage, WindowMin, WindowMax, WindowAll}, Default: WindowAverage, Help: "which one; all: the average, and the others with the keys min and max"},
}

// Readings is what is known of any node that a driver writes readings to.
var Readings = &Type{Help: "a node that a driver has made", Settings: slices.Concat(anywhere[:1], readings), Points: told}

// Gateway is what the agent itself is set by.
var Gateway = &Type{
	Name: point.NodeGateway, Help: "a gateway", Below: belowHub, Open: true,
	Settings: []Setting{
		{Name: Description, Kind: Text, Help: "name of the node"},
		{Name: point.TypePlan, Kind: Text, Words: []string{"catm", "lte", "wired"}, Default: "wired", Help: "what its line is"},
		{Name: "flushInterval", Kind: Number, Unit: "s", Range: &Range{0.1, 86_400}, Help: "between two pieces of the log; by the plan"},
		{Name: "commitInterval", Kind: Number, Unit: "s", Range: &Range{0.1, 60}, Help: "the most that a power cut can lose of what nobody waited for; by the plan"},
		{Name: "bytesPerMonth", Kind: Number, Unit: "B", Range: &Range{0, 1e15}, Default: 0., Help: "budget of the line, both ways; 0: none"},
		{Name: "pace", Kind: Text, Words: []string{"even", "free"}, Default: "even", Help: "whether the budget is spread over the month"},
		{Name: "mayWait", Kind: Text, Words: []string{"nothing", "backlog", "live"}, Default: "live", Help: "what waits when the budget is used up"},
		{Name: "alarms", Kind: Text, Default: "", Help: "types that go ahead of everything: door smoke/hall"},
	},
	Points: []string{Applied, point.TypeMonthBytes, point.TypeMonthForecast, point.TypeClockSkew, "linkBytes"},
}

// Simulate is a station of pumps that is not there.
var Simulate = driven(Type{
	Name: "simulate", Help: "a pump station that is not there, to try everything without hardware: pressure and flow of each pump", Below: belowGateway,
	Settings: []Setting{
		{Name: "pumps", Kind: Integer, Range: &Range{1, 1000}, Default: 30., Help: "nodes of type pump that it makes below it"},
		{Name: "period", Kind: Integer, Unit: "ms", Range: &Range{10, 3_600_000}, Default: 1000., Help: "between two readings"},
	},
})

// Host is the machine that the agent runs on.
var Host = measuring(Type{
	Name: "host", Help: "the machine of the gateway: CPU in %, memory and disks in bytes, bytes of each network interface, temperatures in °C, uptime in s", Below: belowGateway,
	Settings: []Setting{
		{Name: "period", Kind: Integer, Unit: "s", Range: &Range{1, 86_400}, Default: 300., Help: "between two readings"},
		{Name: "disks", Kind: Text, Default: "/", Help: "paths whose file systems are measured: / /data"},
	},
	Points: []string{"cpu", "load", "uptime", "memory", "netRx", "netTx", "temperature", "diskTotal", "diskFree"},
})

// LineProtocol takes what clients of InfluxDB post.
var LineProtocol = driven(Type{
	Name: "lineProtocol", Help: "takes InfluxDB line protocol by HTTP at /api/v2/write and /write, and makes a node for each device", Below: belowGateway,
	Settings: []Setting{
		{Name: "listen", Kind: Text, Default: "127.0.0.1:8186", Probed: true, Help: "host:port; beyond this machine a token is needed"},
		{Name: "token", Kind: Text, Default: "", Help: "what clients must give; who reads the node sees it"},
		{Name: "nodeTags", Kind: Text, Default: "host", Help: "tags whose values name the node; the measurement does where there is none"},
		{Name: "maxNodes", Kind: Integer, Range: &Range{1, 1000}, Default: 100., Help: "nodes that it makes"},
		{Name: "maxSeries", Kind: Integer, Range: &Range{1, 100_000}, Default: 1000., Help: "series that it makes between two starts"},
	},
})

// Modbus is a bus of devices that are asked in turn.
var Modbus = driven(Type{
	Name: "modbus", Help: "a Modbus bus; its registers are nodes of type modbusIo below it", Below: belowGateway,
	Settings: []Setting{
		{Name: "protocol", Kind: Text, Words: []string{"tcp", "rtu", "rtuovertcp"}, Default: "tcp", Help: "rtu is a serial line"},
		{Name: "uri", Kind: Text, Probed: true, Help: "host:port, or the path of the serial line, such as /dev/ttyUSB0"},
		{Name: "baud", Kind: Integer, Unit: "Bd", Range: &Range{300, 4_000_000}, Default: 9600., Help: "of a serial line, also behind rtuovertcp"},
		{Name: "parity", Kind: Text, Words: []string{"none", "even", "odd"}, Default: "none", Help: "of a serial line"},
		{Name: "stopBits", Kind: Integer, Range: &Range{1, 2}, Default: 1., Help: "of a serial line"},
		{Name: "pollPeriod", Kind: Integer, Unit: "ms", Range: &Range{10, 86_400_000}, Default: 1000., Help: "between two readings"},
		{Name: "timeout", Kind: Integer, Unit: "ms", Range: &Range{10, 10_000}, Default: 1000., Help: "how long an answer may take"},
	},
})

// ModbusIO is a coil or a number in registers of a Modbus bus.
var ModbusIO = measuring(Type{
	Name: "modbusIo", Help: "a bit or a number of a Modbus device", Below: "a modbus",
	Settings: []Setting{
		{Name: "unitId", Kind: Integer, Range: &Range{0, 255}, Default: 1., Probed: true, Help: "number of the device"},
		{Name: "ioType", Kind: Text, Words: []string{"coil", "discrete", "holding", "input"}, Default: "holding", Probed: true, Help: "which of its tables"},
		{Name: "address", Kind: Integer, Range: &Range{0, 65_535}, Default: 0., Probed: true, Help: "in that table, counted from 0"},
		{Name: "dataFormat", Kind: Text, Words: []string{"uint16", "int16", "uint32", "int32", "uint64", "float32", "float64"}, Default: "uint16", Help: "of a number; 32 and 64 bits take 2 and 4 registers"},
		{Name: "wordOrder", Kind: Text, Words: []string{"high", "low"}, Default: "high", Help: "which register comes first"},
		{Name: "scale", Kind: Number, Range: &Range{-1e12, 1e12}, Default: 1., Help: "value = number * scale + offset"},
		{Name: "offset", Kind: Number, Range: &Range{-1e12, 1e12}, Default: 0., Help: "see scale"},
		{Name: "units", Kind: Text, Default: "", Help: "of the value, for people"},
		{Name: "readOnly", Kind: Bool, Default: false, Help: "valueSet is refused"},
		{Name: "valueSet", Kind: Number, Probed: true, Help: "is written to the device once, and read back into value"},
	},
	Points: []string{"value"},
})

// Types returns all types that something is known of, by name.
func Types() []*Type { return types }

var types = []*Type{Gateway, Host, LineProtocol, Modbus, ModbusIO, Simulate}

// driven returns a type that a driver works for.
func driven(t Type) *Type {
	t.Settings = slices.Concat(t.Settings, anywhere)
	t.Points = slices.Concat(t.Points, told)
	return &t
}

// measuring returns a type that a driver works for and writes readings to.
func measuring(t Type) *Type {
	t.Settings = slices.Concat(t.Settings, readings)
	return driven(t)
}
