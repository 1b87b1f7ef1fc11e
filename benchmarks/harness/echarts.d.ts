// What we use of ECharts. Its own types are out of reach where the repository is type-checked: the gate does that before
// anybody has installed the benchmarks' dependencies, which are not the library's.
declare module 'echarts' {
  export function init(
    dom: null,
    theme: null,
    options: { renderer: 'svg'; ssr: true; width: number; height: number },
  ): {
    setOption(option: object): void;
    renderToSVGString(): string;
    dispose(): void;
  };
}
