import { init } from 'echarts';

export interface LineChart {
  title: string;
  x: Axis;
  y: Axis;
  lines: readonly Line[];
}

export interface Axis {
  name: string;
  /** @default 'linear' */
  scale?: 'linear' | 'log';
}

export interface Line {
  name: string;
  points: readonly (readonly [x: number, y: number])[];
}

const WIDTH = 760;
const HEIGHT = 460;
/** Blue, orange, green, purple: told apart by the colour-blind too, and each line has a mark of its own beside. */
const COLOURS = ['#0b62c4', '#c9540a', '#1a7f4b', '#7d3fb3'];
const MARKS = ['circle', 'diamond', 'triangle', 'rect'];
const INK = '#1f2328';
const FAINT_INK = '#59636e';
const GRID = '#d1d9e0';
const FINE_GRID = '#eff2f5';

/**
 * An SVG of the lines. It brings a white ground of its own: no ink can be read on a white page and on a dark one alike.
 * @param caption where the figures come from, below the chart
 */
export function drawLines(chart: LineChart, caption: string): string {
  const drawing = init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height: HEIGHT });
  try {
    drawing.setOption(optionOf(chart, caption));
    return `${drawing.renderToSVGString()}\n`;
  } finally {
    drawing.dispose();
  }
}

function optionOf({ title, x, y, lines }: LineChart, caption: string): object {
  return {
    animation: false,
    backgroundColor: '#ffffff',
    color: COLOURS,
    title: [
      { text: title, left: 'center', top: 14, textStyle: { color: INK, fontSize: 17 } },
      {
        text: caption,
        left: 'center',
        bottom: 8,
        textStyle: { color: FAINT_INK, fontSize: 11, fontWeight: 'normal' },
      },
    ],
    legend: { top: 44, itemGap: 28, textStyle: { color: INK, fontSize: 13 } },
    grid: { left: 78, right: 34, top: 82, bottom: 84 },
    xAxis: { ...axisOf(x), nameGap: 30 },
    yAxis: { ...axisOf(y), nameGap: 54 },
    series: lines.map(({ name, points }, n) => ({
      type: 'line',
      name,
      data: points,
      symbol: MARKS[n % MARKS.length],
      symbolSize: 9,
      lineStyle: { width: 2.5 },
    })),
  };
}

function axisOf({ name, scale = 'linear' }: Axis): object {
  return {
    type: scale === 'log' ? 'log' : 'value',
    name,
    nameLocation: 'middle',
    nameTextStyle: { color: INK, fontSize: 13 },
    axisLine: { show: true, lineStyle: { color: FAINT_INK } },
    axisLabel: { color: INK, fontSize: 12, formatter: (value: number) => value.toLocaleString('en') },
    splitLine: { lineStyle: { color: GRID } },
    // Between powers of ten, where a logarithmic axis has no other marks.
    minorTick: { show: scale === 'log', splitNumber: 10 },
    minorSplitLine: { show: scale === 'log', lineStyle: { color: FINE_GRID } },
  };
}
