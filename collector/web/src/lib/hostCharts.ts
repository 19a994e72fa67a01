/** The charts of a host: which series they ask for, and how those become lines. Pure. */
import type { Range, Series } from './api/types';
import { perSecond, select, sum, wholeDisks, type Line } from './series';

/** Asked for together; counters need the last sample of a bucket, for an average of them means nothing. */
export const QUERIES: readonly { names: string[]; agg: 'avg' | 'last' }[] = [
  { names: ['system.cpu.utilization'], agg: 'avg' },
  {
    names: ['system.memory.usage', 'system.linux.pressure.share', 'system.cpu.load_average.1m', 'system.cpu.load_average.5m'],
    agg: 'avg',
  },
  { names: ['system.network.io', 'system.disk.io'], agg: 'last' },
];

/**
 * Asked for one by one where a host has so many processors that one answer does not hold all their series: the
 * series of the whole machine would then be among those left out.
 */
export const CPU_MODES: readonly string[] = ['user', 'nice', 'system', 'iowait', 'interrupt', 'softirq', 'steal'];

/** Several answers for the same range as one. */
export function joined(answers: Range[]): Range | null {
  const [first] = answers;
  if (!first) return null;
  return { ...first, series: answers.flatMap((one) => one.series), truncated: answers.some((one) => one.truncated) };
}

export interface HostChart {
  title: string;
  /** Index of the query that it is made of. */
  query: number;
  lines: Line[];
  format: 'share' | 'bytes' | 'rate' | 'number';
  stacked: boolean;
  max: number;
}

function line(name: string, series: Series[]): Line[] {
  return series.length === 0 ? [] : [{ name, points: sum(series.map((one) => one.points)) }];
}

function counter(name: string, series: Series[]): Line[] {
  return series.length === 0 ? [] : [{ name, points: sum(series.map((one) => perSecond(one.points))) }];
}

/** Charts whose series are there; what a kernel does not offer is left out, not drawn as zero. */
export function charts(answers: Range[]): HostChart[] {
  const of = (query: number): Series[] => answers[query]?.series ?? [];
  const cpu = select(of(0), 'system.cpu.utilization', (labels) => !('cpu.logical_number' in labels));
  const mode = (...modes: string[]) => cpu.filter((one) => modes.includes(one.labels['cpu.mode'] ?? ''));
  const state = (name: string) => select(of(1), 'system.memory.usage', (labels) => labels['system.memory.state'] === name);
  const pressure = (resource: string) =>
    select(
      of(1),
      'system.linux.pressure.share',
      (labels) => labels['resource'] === resource && labels['kind'] === 'some' && labels['window'] === 'avg10',
    );
  const io = (direction: string, loopback: boolean) =>
    select(
      of(2),
      'system.network.io',
      (labels) => labels['network.io.direction'] === direction && (labels['network.interface.name'] === 'lo') === loopback,
    );
  const disk = (direction: string) =>
    wholeDisks(select(of(2), 'system.disk.io', (labels) => labels['disk.io.direction'] === direction));
  const all: HostChart[] = [
    {
      title: 'CPU',
      query: 0,
      lines: [
        ...line('user', mode('user', 'nice')),
        ...line('system', mode('system')),
        ...line('waits for I/O', mode('iowait')),
        ...line('interrupts', mode('interrupt', 'irq', 'softirq', 'soft_interrupt')),
        ...line('stolen', mode('steal')),
      ],
      format: 'share',
      stacked: true,
      max: 1,
    },
    {
      title: 'Memory',
      query: 1,
      lines: [...line('used', state('used')), ...line('cached', state('cached')), ...line('buffers', state('buffers')), ...line('free', state('free'))],
      format: 'bytes',
      stacked: false,
      max: 1 << 20,
    },
    { title: 'Disk', query: 2, lines: [...counter('read', disk('read')), ...counter('written', disk('write'))], format: 'rate', stacked: false, max: 1024 },
    {
      title: 'Network',
      query: 2,
      lines: [
        ...counter('received', io('receive', false)),
        ...counter('sent', io('transmit', false)),
        ...counter('loopback', io('transmit', true)),
      ],
      format: 'rate',
      stacked: false,
      max: 1024,
    },
    {
      title: 'Pressure: share of time that some task waits',
      query: 1,
      lines: [...line('CPU', pressure('cpu')), ...line('memory', pressure('memory')), ...line('I/O', pressure('io'))],
      format: 'share',
      stacked: false,
      max: 0.05,
    },
    {
      title: 'Load',
      query: 1,
      lines: [
        ...line('1 min', select(of(1), 'system.cpu.load_average.1m', () => true)),
        ...line('5 min', select(of(1), 'system.cpu.load_average.5m', () => true)),
      ],
      format: 'number',
      stacked: false,
      max: 1,
    },
  ];
  return all.filter((chart) => chart.lines.length > 0);
}
