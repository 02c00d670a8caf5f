# SPDX-License-Identifier: MIT
"""The table of bench/gpu, from what its JSON file holds."""

PRECISIONS = ('fp32', 'tf32', 'bf16')


def data_of(result, part):
    return result['parts'].get(part, {}).get('data', {})


def head(result):
    machine, built = data_of(result, 'machine'), data_of(result, 'build')
    if result['harness']:
        yield 'THE HOST HARNESS, NO GPU: the times below say nothing about one.'
    for card in machine.get('cards', []):
        yield (f'{card["name"]}, {card["memory.total"]}, compute capability {card["compute_cap"]}, driver {card["driver_version"]}, '
               f'power limit {card["power.limit"]}; before: {card["utilization.gpu"]} busy, {card["memory.used"]} used')
    yield (f'{machine.get("nvcc") or "no nvcc"}; {machine.get("processors")} processor cores; commit {machine.get("commit") or "unknown"}; '
           f'{result["begun"]}')
    if built:
        yield (f'Built for {built["architecture"]} with {", ".join(built["real"])}; stand-ins for {", ".join(built["stand_ins"])}; '
               f'{built["objects_kept"]} of {built["objects"]} objects from before; {len(built["messages"])} with warnings')


def check_rows(result):
    data = data_of(result, 'check')
    names = sorted({name for results in data.values() for name in results})
    if not names:
        return
    every = [found for results in data.values() for found in results.values()]
    yield ''
    yield 'Golden files: the worst tensor, in shares of its bound (1 is the most that passes)'
    yield f'{"":24}' + ''.join(f'{p:>18}' for p in PRECISIONS)
    for name in names:
        yield f'{name[:23]:24}' + ''.join(f'{cell_of(data[p].get(name)):>18}' for p in PRECISIONS)
    if any('ratio_with_float_sums' in found and found['passed'] for found in data['fp32'].values()):
        yield "  * with the products' sums in double; with sums in float it was over the bound, by rounding"
    if any(found.get('over') and found['passed'] for found in every):
        yield '  + over the bound, but by no more than rounding explains (at most 3 times as far as products of operands rounded at random)'
    strict = sum(bool(found.get('over')) for found in every)
    yield f'  {strict} of {len(every)} have a tensor over its bound; {sum(not found["passed"] for found in every)} did not pass'
    if data_of(result, 'golden').get('prepared'):
        yield f'  golden files as they were prepared {data_of(result, "golden")["prepared"]}'
    reasons = {}
    for precision in PRECISIONS:
        for name, found in data[precision].items():
            if not found['passed']:
                why = found.get('why') or f'{found["over"]} of {found["tensors"]} tensors are over, worst {found["worst"]}'
                reasons.setdefault((why, 'why' not in found and (name, precision)), []).append(f'{name} at {precision}')
    for (why, _), where in reasons.items():
        yield f'  {where[0]}' + (f' and {len(where) - 1} more' if len(where) > 1 else '') + f': {why}'


def cell_of(result):
    if result is None:
        return '-'
    if 'ratio' not in result:
        return 'no result'
    excuse = '* ' if 'ratio_with_float_sums' in result else '+ ' if result['over'] else '  '
    return f'{result["ratio"]:.2g} ' + ('ok' + excuse if result['passed'] else 'OVER')


def loss_rows(result):
    data = data_of(result, 'losses')
    if not data.get('steps'):
        return
    worst = max(data['steps'], key=lambda row: row['difference'])
    yield ''
    yield (f'Losses of CPU and GPU at fp32, {len(data["steps"])} of {data["wanted"]} steps of {data["batch"]} windows: largest relative '
           f'difference {worst["difference"]:.1e} at step {worst["step"]} (bound {data["bound"]:.0e}): '
           + ('ok' if worst['difference'] <= data['bound'] else 'OVER'))


def time_rows(result):
    data, torch = data_of(result, 'time'), data_of(result, 'torch').get('lines', [])
    if not any(data.get(p, {}).get('step') for p in PRECISIONS) and not torch:
        return
    yield ''
    yield f'{"Training step":30} {"windows":>8} {"ms":>9} {"lowest":>9} {"highest":>9} {"windows/s":>10} {"TFLOP/s":>8} {"in kernels":>11}'
    for precision in PRECISIONS:
        step = data.get(precision, {}).get('step')
        if step:
            inside = sum(kernel['ms'] for kernel in data[precision]['kernels'])
            yield (f'{"ours, " + precision:30} {step["batch"]:8} {step["ms"]:9.3f} {step["ms_lowest"]:9.3f} {step["ms_highest"]:9.3f} '
                   f'{step["windows_per_second"]:10.0f} {step["tflops"]:8.1f} ' + (f'{inside:8.3f} ms' if inside else f'{"-":>11}'))
    for line in torch:
        name = f'PyTorch {line["version"]}, {line["precision"]}{", compiled" if line["compiled"] else ""}'
        name += f' ({line["graph_breaks"]} breaks)' if line.get('graph_breaks') else ''
        name += ' UNVERIFIED' if line['verified_to'] is None else ''
        yield (f'{name[:30]:30} {line["batch"]:8} {line["ms"]:9.3f} {1e3 * line["batch"] / line["fastest"]:9.3f} '
               f'{1e3 * line["batch"] / line["slowest"]:9.3f} {line["windows_per_second"]:10.0f}'
               + (f'   ours at bf16 is {line["ours_over_torch"]:.2f} times as fast' if 'ours_over_torch' in line else ''))


def kernel_rows(result):
    """The kinds of kernel in the order of their time at the lowest precision that was measured."""
    data = data_of(result, 'time')
    measured = [p for p in PRECISIONS if data.get(p, {}).get('kernels')]
    kinds = {}
    for precision in measured:
        for kernel in data[precision]['kernels']:
            key = (kernel['operation'], kernel['name'])
            kind = kinds.setdefault(key, {'launches': kernel['launches']})
            kind[precision] = kernel['ms']
    if not kinds:
        return
    yield ''
    yield 'By kernel, ms of a step in which an event stands in front of each piece of work'
    yield f'{"operation":18} {"kernel":46} {"n":>4}' + ''.join(f'{p:>10}' for p in measured) + f'{"share":>7}'
    total = {p: sum(kind.get(p, 0) for kind in kinds.values()) for p in measured}
    for (operation, name), kind in sorted(kinds.items(), key=lambda item: -item[1].get(measured[-1], 0)):
        share = kind.get(measured[-1], 0) / total[measured[-1]] if total[measured[-1]] > 0 else 0
        yield (f'{operation[:18]:18} {name.strip("()")[:46]:46} {kind["launches"]:4.0f}'
               + ''.join(f'{kind[p]:10.4f}' if p in kind else f'{"-":>10}' for p in measured) + f'{100 * share:6.1f}%')
    yield f'{"sum":70}' + ''.join(f'{total[p]:10.4f}' for p in measured)


def part_rows(result):
    yield ''
    for name, part in result['parts'].items():
        yield f'{name:8} {part["seconds"]:6.1f} s of {part["limit"]:3}  {part["failed"] or "done"}'
    yield f'{"all":8} {result["seconds"]:6.1f} s  ' + ('everything passed' if result['passed'] else 'NOT everything passed')


def text_of(result):
    rows = [row for section in (head, check_rows, loss_rows, time_rows, kernel_rows, part_rows) for row in section(result)]
    return '\n'.join(rows) + '\n'
